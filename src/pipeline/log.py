"""``run.log``: what the console said, in the folder of the run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from src.common.distributed import rank
from src.common.errors import reason_of
from src.common.files import writing
from src.common.signals import Interrupted

FILE_NAME = "run.log"
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_DATE = "%Y-%m-%d %H:%M:%S%z"


class _RunLog(logging.FileHandler):
    """Appends lines of every logger; a disk that is full costs a line and no more."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8")
        self.setFormatter(logging.Formatter(_FORMAT, _DATE))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Nothing: the run goes on, and what it has to write speaks for itself."""

    def say(self, level: int, message: str) -> None:
        """A line of the file's own, which the console has in other words or not at all."""
        self.emit(logging.LogRecord("run", level, __file__, 0, message, None, None))


@contextmanager
def written_down(folder: Path, command: str | None = None) -> Iterator[None]:
    """Append what is logged in the block to ``folder/run.log``, on rank 0; and how it ended.

    Args:
        folder: The run's folder; nobody else writes there.
        command: The command line, for the first line of this attempt.

    Raises:
        UserError: If the disk does not take it.
    """
    if rank() != 0:
        yield
        return
    path = folder / FILE_NAME
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        handler = _RunLog(path)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        if command:
            handler.say(logging.INFO, f"Command: {command}")
        yield
        handler.say(logging.INFO, "Finished")
    except (Exception, Interrupted) as error:
        reason = reason_of(error)
        handler.say(logging.ERROR, f"Error: {reason}")
        raise
    finally:
        root.removeHandler(handler)
        with suppress(OSError):
            handler.close()
