"""One line and an exit code for every failure that the user can mend."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from src.common.errors import RankError, UserError
from src.common.signals import Interrupted
from src.config.composition import explain, is_about_composition

# Torch's own class exists for GPUs only; its CPU allocator raises a bare RuntimeError.
_OUT_OF_MEMORY = re.compile("not enough memory|out of memory|can't allocate memory")


@contextmanager
def complaints(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Turn failures into one line and an exit code: 2 where the user can mend them, else 1.

    A signal that asked the run to stop gives 128 plus its number. ``SystemExit``, because Hydra
    adds lines of its own to every other exception.

    Args:
        arguments: Those of the command line, for hints about them.
    """
    try:
        yield
    except (Exception, Interrupted) as error:
        line = _line(error, arguments)
        if line is None:  # a fault of the program, whose traceback nobody has kept
            raise
        sys.exit(complain(*line))


def _line(error: BaseException, arguments: Sequence[str]) -> tuple[str, int] | None:
    """What to say of a failure, and its exit code."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, Interrupted | RankError):
        return str(error), error.exit_code
    if isinstance(error, FloatingPointError):
        return str(error), 1
    if isinstance(error, Exception) and is_about_composition(error):
        return explain(error, arguments), 2
    if isinstance(error, OSError):
        where = f"'{error.filename}'" if error.filename else "a file of the run"
        return f"Cannot use {where} ({error.strerror or error}); mend that and run again", 2
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return f"Out of memory ({error}); lower the batch sizes", 1
    notes = "; ".join(getattr(error, "__notes__", []))
    return (f"Unexpected {type(error).__name__}: {error} ({notes})", 1) if notes else None


def complain(message: str, exit_code: int) -> int:
    """Print one line to stderr and return the exit code."""
    rank = os.environ.get("RANK", "0")
    prefix = "" if rank == "0" else f"[rank {rank}] "
    sys.stderr.write(f"{prefix}Error: {' '.join(message.split())}\n")
    return exit_code
