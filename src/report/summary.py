"""``summary.json``: what a run leaves behind, and the only input of tables, figures and pages."""

import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal, TypedDict, cast

from src.common.errors import UserError
from src.common.sealed import DamagedError, read_sealed, verify, write_sealed

FILE_NAME = "summary.json"
PREVIOUS = "summary.previous.json"  # a finished one, until a forced run has replaced it

_Types = tuple[type, ...]
_NUMBER: _Types = (int, float)
_STATUSES = ("running", "failed", "interrupted", "finished")
_ALWAYS: dict[str, _Types] = {
    "status": (str,),
    "baseline": (str,),
    "dataset": (str,),
    "teacher.name": (str,),
    "student.name": (str,),
    "kdci.name": (str,),
    "seed": (int,),
    "budget": (str,),
    "config": (dict,),
    "identity.run": (str,),
    "identity.settings": (dict,),
    "identity.contents": (dict,),
    "identity.code": (dict,),
}
_RESULT: dict[str, _Types] = {
    "teacher.acc1": _NUMBER,
    "teacher.sha256": (str,),
    "acc1.last": _NUMBER,
    "acc1.best": _NUMBER,
    "substitution.mode": (str,),
    "substitution.reused": (bool,),
    "seconds.total": _NUMBER,
    "peak_memory_mb": _NUMBER,
    "device": (str,),
    "checksums": (dict,),
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


class HeldOutSummary(TypedDict):
    """On recorded images that the plain student was not trained on, over all ranks.

    ``agreement``: with the teacher's predicted class, percent; ``one_class``: what a student would
    have that always says the most frequent one.
    """

    images: int
    agreement: float
    one_class: float


class SubstitutionSummary(TypedDict):
    """Where the substitution data came from; ``reused``: stage (a) was not paid for again."""

    mode: str
    images: int
    reused: bool
    artifact: str


class Summary(TypedDict, total=False):
    """One run. Before it has finished, results are absent; ``folder`` is never stored.

    Seconds and peak memory (MiB) are keyed by stage: ``teacher``, ``stage_a``, ``dictionary``,
    ``stage_b``, ``inside`` (the measures at the end), and for seconds ``total``; a stage that did
    not run has no entry or ``None``. They are of the last attempt: ``resumed`` are the stages of
    which an earlier one did a part; absent in older summaries. An ``interrupted`` run was stopped
    or killed: the same command goes on with it. ``started``, of the last attempt, and ``finished``
    are ISO 8601, UTC. ``command`` is what was typed, quoted for a shell, and ``host`` where.
    ``inside_error`` says why there is no ``inside.json``. ``checksums`` are digests of files of
    the folder, by name.
    ``adjustment`` is what it found for itself, such as an automatic strength.
    ``held_out`` is None where no image was, and absent in older summaries.
    ``evaluated_every``: epochs from one evaluation of the student to the next, counted back from
    the last; ``acc1.best`` is the best of these. ``recipe`` is None where the lengths are no
    recipe's; ``sweep`` is that of which it is a point; ``protocol`` is the mode, and the
    published one if another.

    ``identity`` is what makes a run the same as another: ``settings``, the values of the
    configuration that shape the result, by dotted name; ``contents``, hashes of the data and
    files that were read; ``code``, hashes of the source by the part of the run that it shapes
    (``teacher``, ``stage_a``, ``stage_b``, and ``kdci`` where there is compensation); ``run``, a
    hash of all this.
    """

    status: Literal["finished", "failed", "interrupted", "running"]
    error: str | None
    baseline: str
    dataset: str
    teacher: TeacherSummary
    student: dict[str, Any]
    kdci: dict[str, Any]
    seed: int
    budget: str
    recipe: str | None
    sweep: str | None
    protocol: str
    started: str
    finished: str
    command: str | None
    host: str
    inside_error: str | None
    identity: dict[str, Any]
    acc1: AccuracySummary
    held_out: HeldOutSummary | None
    evaluated_every: int
    substitution: SubstitutionSummary
    seconds: dict[str, float | None]
    resumed: list[str]
    peak_memory_mb: float
    peak_memory_mb_by_stage: dict[str, float | None]
    config: dict[str, Any]
    versions: dict[str, str]
    device: str
    git_revision: str | None
    precision: str
    world_size: int
    class_proportions: list[float]
    dictionary: dict[str, Any] | None
    adjustment: dict[str, float] | None
    files: dict[str, str]
    checksums: dict[str, str]
    folder: str


def write_summary(summary: Summary, folder: Path) -> Path:
    """Write ``folder/summary.json`` atomically, sealed, and return its path.

    Raises:
        ValueError: If a number is NaN or infinite, or an accuracy is no percentage.
        UserError: If the disk does not take it.
    """
    problem = _no_percentage(summary)
    if problem is not None:
        raise ValueError(problem)
    path = folder / FILE_NAME
    write_sealed(path, {key: value for key, value in summary.items() if key != "folder"})
    return path


def is_finished(folder: Path, run: str | None = None) -> bool:
    """Whether ``folder`` holds a finished run: summary and files whole, as they were written.

    Args:
        folder: The run's folder.
        run: Identity that the run must have; None for any.
    """
    try:
        return _is_finished(folder, run)
    except DamagedError:
        return False


def why_not_finished(folder: Path, run: str | None = None) -> str | None:
    """What has been damaged in a folder that would hold a finished run otherwise.

    Args:
        folder: The run's folder.
        run: Identity that the run must have; None for any.

    Returns:
        One line; None if nothing is damaged: then the run is finished, or was never.
    """
    if not os.path.lexists(folder / FILE_NAME):
        return None
    try:
        _is_finished(folder, run)
    except DamagedError as damage:
        return str(damage)
    return None


def _is_finished(folder: Path, run: str | None) -> bool:
    summary = read_whole(folder / FILE_NAME)
    if run is not None and summary["identity"]["run"] != run:
        raise DamagedError(f"'{folder / FILE_NAME}' is of another run")
    if summary["status"] != "finished":
        return False
    verify(folder, summary["checksums"])
    return True


def read_summary(path: Path) -> Summary:
    """Read and check one ``summary.json``; ``folder`` tells where it lay.

    The files beside it are not looked at.

    Raises:
        UserError: If the file is not as it was written, or lacks a key that the reports need.
    """
    try:
        return read_whole(path)
    except DamagedError as damage:
        cure = f"run the same command again, or remove the folder '{path.parent}'"
        if path.name != FILE_NAME:
            cure = f"give a run folder or a {FILE_NAME}"
        raise UserError(f"{damage}; {cure}") from damage


def read_whole(path: Path) -> Summary:
    """The same for a caller that has a cure of its own.

    Raises:
        DamagedError: If the file is not as it was written, or lacks a key that the reports need.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise DamagedError(f"'{path}' is no regular file")
        content = read_sealed(path)
    except (OSError, RecursionError) as error:
        raise DamagedError(f"'{path}' cannot be read ({error})") from error
    problem = _lack(content, _ALWAYS)
    if problem is None and content["status"] not in _STATUSES:
        problem = f"expected `status` to be one of {_STATUSES}, but got {content['status']!r}"
    if problem is None and content["status"] == "finished":
        problem = _lack(content, _RESULT) or _no_percentage(content)
    if problem is not None:
        raise DamagedError(f"'{path}' is incomplete or wrong: {problem}")
    return cast("Summary", content | {"folder": str(path.parent)})


def _lack(content: dict[str, Any], expected: Mapping[str, _Types]) -> str | None:
    """The first key that is missing or of another type, in words."""
    for key, types in expected.items():
        value: Any = content
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, types):
            names = " or ".join(kind.__name__ for kind in types)
            return f"expected `{key}` to be {names}, but got {shorten(repr(value), 80)}"
    return None


def _no_percentage(content: Mapping[str, Any]) -> str | None:
    """The first accuracy or agreement outside [0, 100], in words; of what is there."""
    accuracies = {f"acc1.{key}": value for key, value in (content.get("acc1") or {}).items()}
    accuracies["teacher.acc1"] = (content.get("teacher") or {}).get("acc1")
    accuracies["held_out.agreement"] = (content.get("held_out") or {}).get("agreement")
    for key, value in accuracies.items():
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 100):
            return f"expected `{key}` within 0..100 percent, but got {value!r}"
    return None
