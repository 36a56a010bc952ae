"""``summary.json``: what a run leaves behind, and the only input of tables, figures and pages."""

import json
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

from src.common.errors import UserError
from src.common.files import atomic_write

FILE_NAME = "summary.json"

_PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "omegaconf",
    "faiss-cpu",
    "numpy",
    "scikit-learn",
    "safetensors",
    "wandb",
)

_NUMBER = (int, float)
_IDENTITY: dict[str, tuple[type, ...]] = {
    "status": (str,),
    "baseline": (str,),
    "dataset": (str,),
    "teacher.name": (str,),
    "student.name": (str,),
    "kdci.name": (str,),
    "seed": (int,),
    "budget": (str,),
    "config": (dict,),
}
_RESULT: dict[str, tuple[type, ...]] = {
    "teacher.acc1": _NUMBER,
    "acc1.last": _NUMBER,
    "acc1.best": _NUMBER,
    "substitution.mode": (str,),
    "substitution.reused": (bool,),
    "seconds.total": _NUMBER,
    "peak_memory_mb": _NUMBER,
}


class TeacherSummary(TypedDict):
    """The teacher: network name, test accuracy in percent, and where its weights came from."""

    name: str
    acc1: float
    seed: int
    checkpoint: str | None
    sha256: str


class AccuracySummary(TypedDict):
    """Test accuracies of the student, percent: plain (last, best), and with F(z) left on."""

    last: float
    best: float
    compensated: float | None
    stage_a: float | None


class SubstitutionSummary(TypedDict):
    """Where the substitution data came from; ``reused``: stage (a) was not paid for again."""

    mode: str
    images: int
    reused: bool
    artifact: str


class Summary(TypedDict, total=False):
    """One run. Before it has finished, results are absent; ``folder`` is never stored.

    Seconds and peak memory (MiB) are keyed by stage: ``teacher``, ``stage_a``, ``dictionary``,
    ``stage_b``, and for seconds ``total``; a stage that did not run has no entry or ``None``.
    """

    status: Literal["finished", "failed", "running"]
    error: str | None
    baseline: str
    dataset: str
    teacher: TeacherSummary
    student: dict[str, Any]
    kdci: dict[str, Any]
    seed: int
    budget: str
    acc1: AccuracySummary
    substitution: SubstitutionSummary
    seconds: dict[str, float | None]
    peak_memory_mb: float
    peak_memory_mb_by_stage: dict[str, float | None]
    config_hash: str
    config: dict[str, Any]
    versions: dict[str, str]
    device: str
    git_revision: str | None
    precision: str
    world_size: int
    class_proportions: list[float]
    dictionary: dict[str, Any] | None
    files: dict[str, str]
    folder: str


def write_summary(summary: Summary, folder: Path) -> Path:
    """Write ``folder/summary.json`` atomically and return its path."""
    path = folder / FILE_NAME
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return path


def is_finished(folder: Path) -> bool:
    """Whether ``folder`` holds the summary of a finished run; a damaged one does not count."""
    try:
        content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("status") == "finished"


def read_summary(path: Path) -> Summary:
    """Read and check one ``summary.json``; ``folder`` tells where it lay.

    Raises:
        UserError: If the file is not JSON, or lacks a key that the reports need.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: expected a JSON summary of a run, but got: {error}") from error
    _require(content, _IDENTITY, path)
    if content["status"] == "finished":
        _require(content, _RESULT, path)
    return cast("Summary", content | {"folder": str(path.parent)})


def read_summaries(paths: Iterable[Path]) -> list[Summary]:
    """Read every ``summary.json`` among and below ``paths``, each once, in path order.

    Raises:
        UserError: If a path does not exist or a summary cannot be used; the file is named.
    """
    found: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UserError(
                f"{path}: expected a run folder or a summary.json, but nothing is there"
            )
        found.update(path.rglob(FILE_NAME) if path.is_dir() else [path])
    unique = {path.resolve(): path for path in sorted(found)}
    return [read_summary(path) for path in unique.values()]


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that shape a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision(folder: Path | None = None) -> str | None:
    """Commit of the source, with ``-dirty`` for uncommitted changes; ``None`` outside git."""
    # Without optional locks, parallel sweep points do not fight over the index.
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(
            ["git", "--no-optional-locks", *describe],
            cwd=folder or Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _require(content: object, expected: dict[str, tuple[type, ...]], path: Path) -> None:
    for key, types in expected.items():
        value = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, types):
            names = " or ".join(kind.__name__ for kind in types)
            raise UserError(
                f"{path}: expected `{key}` to be {names}, but got {value!r}; "
                "run it again with force=true or remove the file"
            )
