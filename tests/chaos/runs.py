"""Commands of runs, and what they leave."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.lab import LIMIT, Lab
from tests.chaos.verdict import Kind, Outcome, Result, Verdict, crash_of, leftovers


def paths(folder: Path) -> list[str]:
    """Outputs and cache of a case."""
    return [f"paths.outputs={folder}/outputs", f"paths.cache={folder}/cache"]


def command(folder: Path, overrides: Sequence[str]) -> list[str]:
    """Arguments of a run whose files all lie in ``folder``; overrides win."""
    return [*paths(folder), *overrides]


def summaries(folder: Path) -> list[Path]:
    """All summaries of a case, in path order."""
    return sorted((folder / "outputs").glob("*/*/summary.json"))


def result(folder: Path) -> Result | None:
    """Of the only finished run below ``folder``; None if there is no such run, or more."""
    found = summaries(folder)
    return result_of(found[0]) if len(found) == 1 else None


def result_of(path: Path) -> Result | None:
    """Of one finished run."""
    try:
        summary: dict[str, Any] = json.loads(path.read_text())
        if summary["status"] != "finished":
            return None
        student = hashlib.sha256((path.parent / "student.safetensors").read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError):
        return None
    teacher = {key: summary["teacher"][key] for key in ("acc1", "sha256")}
    return Result(student[:16], json.dumps([summary["acc1"], teacher]))


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its folder, result, and how it went."""

    folder: Path
    result: Result
    outcome: Outcome


def reference(lab: Lab, overrides: Sequence[str]) -> Reference:
    """The undisturbed run of some overrides, with a cache of its own, made once."""
    key = ("reference", *overrides)

    def make() -> Reference:
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
        folder = lab.folder / "references" / digest
        outcome = lab.run(folder, command(folder, overrides))
        found = result(folder)
        if outcome.exit_code != 0 or found is None:
            raise AssertionError(f"The undisturbed run failed\n{outcome.evidence()}")
        return Reference(folder, found, outcome)

    return lab.once(key, make)


def copy_of(prepared: Path, folder: Path) -> Path:
    """Outputs and cache of another case, copied into this one."""
    for name in ("outputs", "cache"):
        if (prepared / name).exists():
            shutil.copytree(prepared / name, folder / name, symlinks=True)
    return folder


def finish(lab: Lab, folder: Path, overrides: Sequence[str], expected: Result) -> Verdict:
    """Run a command again that was disturbed: it has to finish as if nothing had been."""
    outcome = lab.run(folder, command(folder, overrides), limit=LIMIT)
    crash = crash_of(outcome)
    if crash is not None:
        return crash
    if outcome.exit_code != 0:
        return Verdict(Kind.OTHER, f"exit code {outcome.exit_code}", outcome.evidence())
    found = result(folder)
    if found != expected:
        return Verdict(Kind.SILENT, f"expected {expected}, got {found}", outcome.evidence())
    left = leftovers(folder / "outputs", folder / "cache")
    if left:
        return Verdict(Kind.OTHER, f"left over: {left[:5]}", outcome.evidence())
    return Verdict(Kind.RIGHT)
