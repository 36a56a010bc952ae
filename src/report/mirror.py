"""Finished runs in Weights & Biases after the fact, from what lies in their folders."""

import os
import shutil
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

from src.common.errors import MissingExtraError, UserError
from src.common.files import content_hash, lock
from src.common.sealed import (
    DamagedError,
    digest_file,
    read_own,
    read_sealed,
    verify,
    write_sealed,
)
from src.report.collection import read_summaries
from src.report.dashboard import (
    DashboardError,
    Mode,
    default_entity,
    finished,
    log_points,
    log_summary,
    mode_or_default,
    start_afterwards,
)
from src.report.metrics import STEPS, metric_files, read_points
from src.report.page.leftover import read_picture
from src.report.project import project_name
from src.report.summary import FILE_NAME, Summary, read_whole

RECORD = "mirrored.json"
_MEND = "mend or remove it"
_STAGES = ("teacher", "stage_a", "stage_b")


class Target(NamedTuple):
    """Where runs are mirrored to; ``entity`` is a team or user, None the account's default."""

    project: str
    mode: Mode
    entity: str | None

    def name(self, summary: Summary) -> str:
        """The one identity that a run has in W&B there, in either mode."""
        return content_hash([summary["identity"]["run"], self.project, self.entity])[:16]

    def shown(self, summary: Summary) -> str | None:
        """What a run is called there, whether it was mirrored or logged while it ran.

        None where W&B has made a name up: of a live run that was offline, or forced.
        """
        if not self.has(summary):
            return self.name(summary)
        config = summary["config"]
        is_named = not config.get("force") and config["logger"]["wandb"]["mode"] == "online"
        return summary["identity"]["run"] if is_named else None

    def has(self, summary: Summary) -> bool:
        """Whether a run was logged there while it ran."""
        logger = summary["config"].get("logger")
        options = logger.get("wandb") if isinstance(logger, dict) else None
        if not isinstance(options, dict) or options.get("mode") == "disabled":
            return False
        return (options.get("project"), options.get("entity")) == (self.project, self.entity)


class Mirrored(NamedTuple):
    """What was done, as folders of runs, but for the last.

    Attributes:
        now: Mirrored.
        before: Had been mirrored.
        live: Had been logged there while they ran.
        unfinished: Not finished.
        refused: Instead, one line for each that says that it is finished and was left out.
        there: Summaries of all that are there now: mirrored, before or now, and live.
    """

    now: list[Path]
    before: list[Path]
    live: list[Path]
    unfinished: list[Path]
    refused: list[str]
    there: list[Summary]


def target(project: str, mode: str | None) -> Target:
    """What is asked for; the mode, if not given, and the entity by W&B's own variables.

    Raises:
        UserError: If W&B would not take the project, or is switched off.
    """
    project_name(project, "--wandb")
    taken = mode_or_default(mode, ("online", "offline"))
    return Target(project, cast("Mode", taken), default_entity())


def require_panels(to: Target) -> None:
    """Refuse panels that could not be saved, before anything is mirrored.

    Raises:
        UserError: If the mode is offline.
        MissingExtraError: If their library is not installed.
    """
    if to.mode == "offline":
        raise UserError(
            "Expected --wandb-panels with --wandb-mode online, since panels are on W&B's server "
            "only, but got offline; leave --wandb-panels out, or go online"
        )
    if find_spec("wandb_workspaces") is None:
        raise MissingExtraError("wandb-workspaces", "wandb-dashboards", "leave --wandb-panels out")


def mirror(paths: Sequence[Path], to: Target, tell: Callable[[Path], None]) -> Mirrored:
    """Mirror all finished runs among and below ``paths``, each once.

    Args:
        paths: Run folders, or folders of them.
        to: Where to.
        tell: Called with the folder of each run as soon as it is mirrored.

    Raises:
        UserError: If a path is missing, no run is finished, or W&B does not start.
    """
    if find_spec("wandb") is None:
        raise MissingExtraError("wandb", "train")
    found = read_summaries(paths)
    refused = [damage.with_cure(_MEND) for damage in found.damaged]
    result = Mirrored([], [], [], [], refused, [])
    for summary in found.summaries:
        folder = Path(summary["folder"])
        if summary["status"] != "finished":
            result.unfinished.append(folder)
        elif to.has(summary):
            result.live.append(folder)
            result.there.append(summary)
        elif _mirror(folder, to, tell, result):
            result.there.append(summary)
    if len(result.unfinished) == len(found.summaries) and not found.damaged:
        looked = ", ".join(f"'{path}'" for path in paths)
        raise UserError(f"Expected at least one finished run below {looked}, but found none")
    return result


def _mirror(folder: Path, to: Target, tell: Callable[[Path], None], result: Mirrored) -> bool:
    """Whether it is there now."""
    try:
        if not os.access(folder, os.W_OK):
            raise UserError(f"'{folder}' is read-only, but W&B keeps its files there; copy it")
        with lock(folder.resolve(), wait=False):
            is_new = _mirror_once(folder, to)
    except DashboardError:  # it would say the same of every run
        raise
    except DamagedError as damage:
        result.refused.append(f"{damage}; {_MEND}")
    except UserError as error:
        result.refused.append(str(error))
    else:
        (result.now if is_new else result.before).append(folder)
        if is_new:
            tell(folder)
        return True
    return False


def _mirror_once(folder: Path, to: Target) -> bool:
    """Whether it had to be mirrored; a record in the folder tells, of this very result."""
    result = digest_file(folder / FILE_NAME)
    done, place = _done(folder, result), to._asdict()
    if place in done:
        return False
    summary = read_whole(folder / FILE_NAME)
    left = _left(folder, summary)
    _remove_broken_off(folder, to, to.name(summary))
    _log(folder, summary, left, to)
    write_sealed(folder / RECORD, {"of": result, "mirrors": [*done, place]})
    return True


def _done(folder: Path, result: str) -> list[Any]:
    try:
        mirrors = read_own(folder / RECORD, result).get("mirrors")
    except DamagedError:
        return []
    return mirrors if isinstance(mirrors, list) else []


class _Left(NamedTuple):
    points: list[dict[str, float]]
    class_names: list[str]
    image: Path | None


def _left(folder: Path, summary: Summary) -> _Left:
    """What a run has left, read before W&B is told anything.

    Raises:
        DamagedError: If a file is not what was written, or lies outside the folder.
    """
    _refuse_references(folder, summary["config"])
    card, image = (_file(folder, summary, key) for key in ("card", "images"))
    names = (read_sealed(card).get("class_names") if card else None) or []
    if image is not None and read_picture(image) is None:
        raise DamagedError(f"'{image}' is no picture")
    _require_charts(folder, summary, names)
    # An interrupted stage has several files; the last attempt at an epoch counts.
    points: dict[Any, dict[str, float]] = {}
    for stage in _STAGES:
        for path in metric_files(folder, stage):
            for point in read_points(_within(folder, path)):
                points[tuple((step, point.get(step)) for step in STEPS.values())] = point
    return _Left(list(points.values()), names, image)


def _require_charts(folder: Path, summary: Summary, names: Any) -> None:
    dictionary = summary.get("dictionary") or {}
    shares = summary.get("class_proportions", [])
    if not isinstance(dictionary, dict) or not isinstance(names, list):
        raise DamagedError(f"'{folder}' has no dictionary or class names of a run")
    for values in (shares, dictionary.get("prior", []), dictionary.get("inertia", [])):
        if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
            raise DamagedError(f"'{folder / FILE_NAME}' has other than numbers for its charts")
    if names and shares and len(names) != len(shares):
        raise DamagedError(f"'{folder}' has {len(names)} class names, but {len(shares)} shares")


def _refuse_references(folder: Path, config: dict[str, Any]) -> None:
    """W&B takes what looks like one of its artifacts for it, and asks its server for it."""
    for key, value in config.items():
        if str(value).startswith("wandb-") or (isinstance(value, dict) and "_type" in value):
            raise DamagedError(f"'{folder / FILE_NAME}' has an artifact of W&B in config.{key}")


def _file(folder: Path, summary: Summary, key: str) -> Path | None:
    files = summary.get("files")
    name = files.get(key) if isinstance(files, dict) else None
    if not isinstance(name, str):
        return None
    path = _within(folder, folder / name)
    verify(folder, {name: summary["checksums"][name]} if name in summary["checksums"] else {})
    return path


def _within(folder: Path, path: Path) -> Path:
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DamagedError(f"'{path}' leads out of the run's folder")
    return path


def _remove_broken_off(folder: Path, to: Target, name: str) -> None:
    """Of this mode: an offline mirror may be whole, and not sent yet."""
    kind = "offline-run" if to.mode == "offline" else "run"
    for left in _within(folder, folder / "wandb").glob(f"{kind}-*-{name}"):
        shutil.rmtree(left)


def _log(folder: Path, summary: Summary, left: _Left, to: Target) -> None:
    import wandb

    try:
        run = start_afterwards(summary, folder, to.project, to.mode, to.name(summary))
        with finished(run):
            log_points(run, left.points)
            log_summary(run, summary, left.class_names, left.image)
    except (wandb.Error, ConnectionError) as error:  # the latter: its process is gone
        raise DashboardError(
            f"Weights & Biases stopped at '{folder}' ({error}); the same command goes on"
        ) from error
