"""Disks that are full, folders that cannot be written, files where folders should be."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

from tests.chaos.lab import Lab
from tests.chaos.resumes import overrides_of
from tests.chaos.runner import Case
from tests.chaos.runs import finish, reference, summaries
from tests.chaos.verdict import Kind, Outcome, Verdict, crash_of, judge_refusal

SMALL = ("dafl, full at level 5",)
_LEVELS = 24
_SHARES = (("cache", "outputs"), ("cache",), ("outputs",))


def why_not() -> str | None:
    """Why nothing can be mounted here; None if something can."""
    if os.geteuid() != 0:
        return "only root may mount"
    place = Path(tempfile.gettempdir(), f"kdci-chaos-mount-{os.getpid()}")
    place.mkdir()
    try:
        done = _mount(["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=False)
        if done == 0:
            subprocess.run(["umount", str(place)], check=True)
        return None if done == 0 else "mount is not permitted"
    finally:
        place.rmdir()


def cases() -> list[Case]:
    """Full at many levels, so that each stage meets it; read-only; a file in the place."""
    found = []
    for name, baseline in (("dafl", "dafl"), ("cmi", "cmi")):
        for level in range(_LEVELS // 2):
            share = (level, _LEVELS // 2)
            title = f"{name}, full at level {level}"
            found.append(Case(title, partial(_full, baseline, share)))
    found += [Case(f"read-only {' and '.join(s)}", partial(_read_only, s)) for s in _SHARES]
    found += [
        Case(f"read-only {' and '.join(s)}, later", partial(_read_only_later, s)) for s in _SHARES
    ]
    found += [Case(f"a file for {name}", partial(_file, name)) for name in ("cache", "outputs")]
    return found


def _mount(arguments: list[str], *, check: bool = True) -> int:
    return subprocess.run(["mount", *arguments], check=check, capture_output=True).returncode


@contextmanager
def _mounted(place: Path, size: str) -> Iterator[None]:
    place.mkdir(parents=True)
    _mount(["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)])
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _size(folder: Path) -> int:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files) + 4096 * len(files)


def _judge(outcome: Outcome, folder: Path) -> Verdict | None:
    """What is wrong with a run that met the disk; None if nothing is."""
    verdict = judge_refusal(outcome)
    if verdict.kind.is_failure:
        return verdict
    words = ("No space left", "Read-only file system", "Not a directory", "File exists", "full")
    if str(folder) not in outcome.errors[0] or not any(w in outcome.errors[0] for w in words):
        return Verdict(Kind.OTHER, "no path or no reason", outcome.evidence())
    if any('"status": "finished"' in path.read_text() for path in summaries(folder)):
        return Verdict(Kind.SILENT, "says it is finished", outcome.evidence())
    return None


def _paths(folder: Path) -> list[str]:
    return [f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache"]


def _full(baseline: str, share: tuple[int, int], lab: Lab, folder: Path, rng: Random) -> Verdict:
    overrides = overrides_of(baseline)
    whole = reference(lab, overrides)
    disk = folder / "disk"
    needed = _size(whole.folder / "cache") + _size(whole.folder / "outputs")
    size = int((share[0] + rng.random()) / share[1] * needed * 1.3) + 2**14
    with _mounted(disk, str(size)):
        outcome = lab.run(folder, [*_paths(disk), *overrides])
        if crash_of(outcome) is None and outcome.exit_code == 0:
            return Verdict(Kind.RIGHT)
        wrong = _judge(outcome, disk)
        if wrong is not None:
            return wrong
        _mount(["-o", f"remount,size={8 * needed + 2**24}", str(disk)])
        verdict = finish(lab, disk, overrides, whole.result)
    return Verdict(Kind.REFUSED) if verdict.kind is Kind.RIGHT else verdict


def _read_only(share: tuple[str, ...], lab: Lab, folder: Path, rng: Random) -> Verdict:
    return _unwritable(share, 0, lab, folder)


def _read_only_later(share: tuple[str, ...], lab: Lab, folder: Path, rng: Random) -> Verdict:
    """Something lies there already: a run that was stopped in stage (a)."""
    changes = reference(lab, overrides_of("dafl")).outcome.changes
    return _unwritable(share, rng.randrange(40, len(changes) - 20), lab, folder)


def _unwritable(share: tuple[str, ...], stopped_at: int, lab: Lab, folder: Path) -> Verdict:
    overrides = overrides_of("dafl")
    whole = reference(lab, overrides)
    arguments = [*_paths(folder), *overrides]
    (folder / "cache").mkdir(parents=True)
    (folder / "outputs").mkdir()
    if stopped_at:
        lab.run(folder, arguments, trap=(stopped_at, 9))
    for name in share:
        _mount(["--bind", str(folder / name), str(folder / name)])
        _mount(["-o", "remount,ro,bind", str(folder / name)])
    try:
        outcome = lab.run(folder, arguments)
        wrong = _judge(outcome, folder)
    finally:
        for name in share:
            subprocess.run(["umount", "--lazy", str(folder / name)], check=True)
    if wrong is not None:
        return wrong
    verdict = finish(lab, folder, overrides, whole.result)
    return Verdict(Kind.REFUSED) if verdict.kind is Kind.RIGHT else verdict


def _file(name: str, lab: Lab, folder: Path, rng: Random) -> Verdict:
    overrides = overrides_of("dafl")
    whole = reference(lab, overrides)
    folder.mkdir(parents=True)
    (folder / name).write_text("a file")
    outcome = lab.run(folder, [*_paths(folder), *overrides])
    wrong = _judge(outcome, folder)
    if wrong is not None:
        return wrong
    (folder / name).unlink()
    verdict = finish(lab, folder, overrides, whole.result)
    return Verdict(Kind.REFUSED) if verdict.kind is Kind.RIGHT else verdict
