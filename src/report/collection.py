"""The summaries of many runs: which are whole, and which unfinished ones still matter."""

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from src.common.errors import UserError
from src.common.files import content_hash
from src.common.leaves import leaves
from src.common.sealed import DamagedError
from src.report.summary import FILE_NAME, PREVIOUS, Summary, read_whole

_KILLED = "killed; the same command goes on"
_KEPT = f"the earlier result is kept in {PREVIOUS}"
_PATHS = ("root", "checkpoint", "class_map")  # options that are no settings of an identity


class Damaged(NamedTuple):
    """A summary that cannot be used, or a folder that cannot be read.

    Attributes:
        path: The file, or the folder.
        reason: What is wrong with it; names it.
        is_closed: Whether it is a folder: how many runs lie below is not known.
    """

    path: Path
    reason: str
    is_closed: bool = False

    def with_cure(self, cure: str) -> str:
        """The reason and the way out; a closed folder, whose runs nobody has seen, has its own."""
        return f"{self.reason}; {'ask for the right to read it' if self.is_closed else cure}"


class Found(NamedTuple):
    """What was read.

    Attributes:
        summaries: Whole ones, in path order.
        damaged: The others, in path order.
    """

    summaries: list[Summary]
    damaged: list[Damaged]


def read_summaries(paths: Iterable[Path]) -> Found:
    """Read every ``summary.json`` among and below ``paths``, each once.

    A run that says that it is running while no process holds its lock was killed; it is given
    as interrupted. Of one that ended without a result the error also tells whether it has left an
    earlier result. No other files beside the summaries are looked at. Links to folders are
    followed. A folder that cannot be read is among the damaged.

    Raises:
        UserError: If a path does not exist.
    """
    found: set[Path] = set()
    closed: dict[Path, Damaged] = {}
    for path in paths:
        if not path.exists():
            raise UserError(f"Expected a run folder or a {FILE_NAME}, but '{path}' does not exist")
        found.update(_below(path, closed) if path.is_dir() else [path])
    unique: dict[Path, Path] = {}
    for path in sorted(found):
        unique.setdefault(path.resolve(), path)
    result = Found([], [*closed.values()])
    for path in unique.values():
        try:
            result.summaries.append(_read(path))
        except DamagedError as damage:
            result.damaged.append(Damaged(path, str(damage)))
    result.damaged.sort()
    return result


def _below(path: Path, closed: dict[Path, Damaged]) -> Iterator[Path]:
    """Every summary below a folder; what is closed, by its real path, is added to ``closed``."""

    def add(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # that one has gone in between
            folder = Path(error.filename)
            reason = f"'{folder}' cannot be read ({error.strerror})"
            closed.setdefault(folder.resolve(), Damaged(folder, reason, is_closed=True))

    seen: set[str] = set()  # links may lead back, or twice to the same place
    waiting = [str(path)]
    for top in waiting:  # what links lead to comes last, so that a run has its own path if it can
        # Path.rglob passes over such folders without a word.
        for folder, folders, files in os.walk(top, onerror=add):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            if FILE_NAME in (*folders, *files):
                yield Path(folder, FILE_NAME)
            inner = (os.path.join(folder, name) for name in sorted(folders))
            waiting += filter(os.path.islink, inner)


def _read(path: Path) -> Summary:
    summary = read_whole(path)
    if summary["status"] == "running":
        with unheld(path.parent) as free:
            summary = read_whole(path)  # it may have ended in between
            if free and summary["status"] == "running":
                summary["status"], summary["error"] = "interrupted", _KILLED
    has_ended_early = summary["status"] in ("failed", "interrupted")
    if has_ended_early and os.path.lexists(path.with_name(PREVIOUS)):
        summary["error"] = "; ".join(filter(None, (summary.get("error"), _KEPT)))
    return summary


@contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Whether no process holds the lock of a run; none can take it while the block lasts.

    Unlike ``lock``, this creates no file, and two that only ask do not see each other.

    Args:
        folder: The run's; its lock lies beside it.
    """
    folder = folder.resolve()
    try:
        handle = os.open(folder.parent / f"{folder.name}.lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        free = isinstance(error, FileNotFoundError)
        handle = None
    try:
        if handle is not None:
            free = _is_shared(handle)
        yield free
    finally:
        if handle is not None:
            os.close(handle)


def _is_shared(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def unfinished(summaries: Sequence[Summary]) -> list[Summary]:
    """Unfinished runs that nothing has superseded, in the order given.

    A finished run of the same settings and paths supersedes them, whatever its data and code; so
    does a later attempt at the same.
    """
    finished = {_settings(run) for run in summaries if run["status"] == "finished"}
    latest: dict[str, Summary] = {}
    for run in summaries:
        key = _settings(run)
        if key not in finished and (key not in latest or _started(run) > _started(latest[key])):
            latest[key] = run
    kept = {id(run) for run in latest.values()}
    return [run for run in summaries if id(run) in kept]


def _settings(summary: Summary) -> str:
    """Of what was asked for: settings, and the files and folders that options name."""
    identity = summary["identity"]
    paths = {
        name: value
        for name, value in leaves(summary["config"])
        if name.rpartition(".")[2] in _PATHS or name in identity["contents"]
    }
    return content_hash([identity["settings"], paths])


def _started(summary: Summary) -> datetime:
    try:
        started = datetime.fromisoformat(summary["started"])
    except (KeyError, TypeError, ValueError):
        written = os.stat(Path(summary.get("folder", "."), FILE_NAME)).st_mtime
        return datetime.fromtimestamp(written, UTC)
    return started if started.tzinfo else started.replace(tzinfo=UTC)
