"""What the commands around a deployed student share: how they write, and how they complain."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from src.common.errors import UserError, in_one_line


def ended(command: Callable[[], int]) -> int:
    """Exit code of a command; 2 and one line on stderr for what the user can mend.

    ``src.complaint`` says the same of a run, but would bring Hydra.
    """
    try:
        return command()
    except UserError as error:
        message = str(error)
    except OSError as error:
        what = "what is read or written" if error.filename is None else f"'{error.filename}'"
        message = f"Cannot use {what} ({error.strerror or error}); mend that"
    sys.stderr.write(f"Error: {in_one_line(message)}\n")
    return 2


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """``--plugin``, the same in all of them."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of your own that the run used, see docs/plug-ins.md; may be repeated",
    )


@contextmanager
def own_cure(path: Path) -> Iterator[None]:
    """Around atomic writers, whose advice is for runs, when ``path`` was named by the user.

    Raises:
        UserError: If the disk does not take it.
    """
    try:
        yield
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        reason = error.__cause__.strerror or error.__cause__
        raise UserError(f"Cannot write '{path}' ({reason}); free space or name another") from error
