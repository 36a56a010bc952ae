"""What sweeps have left on the machine: results to compare, and what should not be there."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil
from filelock import FileLock, Timeout

from tests.chaos.runs import summaries

SHARED = Path("/dev/shm")
_OURS = ("sem.loky-", "joblib_memmapping_folder_", "torch_")  # others name theirs by numbers, too
_TENSORS = (".safetensors", ".npy", ".pt")


class Check(NamedTuple):
    """A line of the table: what is looked at, how many there are, and what is wrong."""

    what: str
    count: int
    faults: list[str]


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of tensors below outputs and cache, by path."""
    found = (path for name in ("outputs", "cache") for path in (folder / name).rglob("*"))
    files = sorted(path for path in found if path.suffix in _TENSORS and path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def accuracies(folder: Path) -> dict[str, str]:
    """Status and accuracies in every summary, by run folder."""
    found = {}
    for path in summaries(folder):
        summary = json.loads(path.read_text())
        facts = [summary[key] for key in ("status", "acc1", "agreement") if key in summary]
        found[str(path.parent.relative_to(folder))] = json.dumps([*facts, summary["teacher"]])
    return found


def compare(what: str, found: Mapping[str, str], expected: Mapping[str, str]) -> Check:
    """What is missing, too much, or another than in the quiet sweep."""
    faults = [f"missing: {name}" for name in sorted(expected.keys() - found.keys())]
    faults += [f"too much: {name}" for name in sorted(found.keys() - expected.keys())]
    faults += [
        f"differs: {name}: expected {expected[name]}, got {found[name]}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    return Check(what, len(found), faults)


def count_of(what: str, names: Iterable[str], expected: int) -> Check:
    """Whether there are as many as there should be."""
    found = sorted(names)
    fault = [f"expected {expected}, got {len(found)}: {found}"]
    return Check(what, len(found), fault if len(found) != expected else [])


def none_of(what: str, found: Iterable[str]) -> Check:
    """What should not be there at all."""
    faults = sorted(found)
    return Check(what, len(faults), faults)


def made(content: Iterable[str], pattern: str) -> set[str]:
    """Folders of the cache, named by the files within them that match ``pattern``."""
    return {str(Path(name).parent) for name in content if re.fullmatch(pattern, name)}


def held_locks(folder: Path) -> list[str]:
    """Locks that some process still holds."""
    held = []
    for path in folder.rglob("*.lock"):
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            held.append(str(path))
    return held


def members(sessions: Iterable[int]) -> list[psutil.Process]:
    """Living processes of some sessions, whoever their parents are by now."""
    wanted, found = set(sessions), []
    for pid in psutil.pids():
        try:
            process = psutil.Process(pid)
            if os.getsid(pid) in wanted and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def words_of(process: psutil.Process) -> list[str]:
    """Its command line; none if it has just ended."""
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def in_shared_memory(processes: Iterable[int], folder: Path = SHARED) -> set[str]:
    """What lies in shared memory under the number of one of these processes, dead ones too."""
    numbers = set(map(str, processes))
    names = os.listdir(folder) if folder.is_dir() else []
    ours = (name for name in names if name.startswith(_OURS))
    return {name for name in ours if numbers & set(re.split(r"[_.-]", name))}
