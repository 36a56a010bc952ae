"""One line and an exit code for every failure that the user can mend."""

import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from src.common.errors import RankError, UserError, in_one_line, is_lost_peer
from src.common.signals import Interrupted, is_rank
from src.config.composition import explain, is_about_composition

# Torch's own class exists for GPUs only; its CPU allocator raises a bare RuntimeError.
_OUT_OF_MEMORY = re.compile("not enough memory|out of memory|can't allocate memory")
# Packages of launchers, which have errors of their own for points that ended without a word.
_LAUNCHERS = ("submitit.", "joblib.")
# Optuna's words where all points of a search failed; it has no class of its own for them.
_NO_VALUE = "No trials are completed yet."
_STDOUT = 1
_PATIENCE = 10  # seconds


@contextmanager
def complaints(
    arguments: Sequence[str] = (), passing: type[Exception] | tuple[()] = ()
) -> Iterator[None]:
    """Turn failures into one line and an exit code: 2 where the user can mend them, else 1.

    A signal that asked the run to stop gives 128 plus its number. ``SystemExit``, because Hydra
    adds lines of its own to every other exception.

    Args:
        arguments: Those of the command line, for hints about them.
        passing: What is left to somebody further out.
    """
    try:
        yield
    except passing:
        raise
    except (Exception, Interrupted) as error:
        if isinstance(error, BrokenPipeError) and _is_unread():  # as in `--help | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)  # for what is still to be flushed
            sys.exit(128 + signal.SIGPIPE)
        if is_rank() and is_lost_peer(error):
            # The one that has died may be about to say why; whoever started the ranks then ends
            # this one, and says which it was.
            time.sleep(2 * _PATIENCE)
            sys.exit(1)
        line = _line(error, arguments)
        if line is None:  # a fault of the program, whose traceback nobody has kept
            raise
        sys.exit(complain(*line))


def _is_unread() -> bool:
    """Whether nobody reads what this program prints any longer."""
    poll = select.poll()
    poll.register(_STDOUT, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


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
    return of_sweep(error) or _unforeseen(error)


def of_sweep(error: BaseException) -> tuple[str, int] | None:
    """What launchers and sweepers make of points that ended badly: one line, and an exit code."""
    if type(error).__module__.startswith(_LAUNCHERS):
        said = " ".join(str(error).splitlines()[:2])  # the rest is the point's own log
        return f"The launcher lost a point of the sweep ({said}); the same command goes on", 1
    if str(error) == _NO_VALUE:
        return "No point of the search has ended with a value; each has said why", 1
    return None


def _unforeseen(error: BaseException) -> tuple[str, int] | None:
    notes = "; ".join(getattr(error, "__notes__", []))
    if notes:
        return f"Unexpected {type(error).__name__}: {error} ({notes})", 1
    # Before the run's folder is known, other ranks fail as rank 0 does, or because it has.
    is_other_rank = os.environ.get("RANK", "0") != "0"
    return (f"Unexpected {type(error).__name__}: {error}", 1) if is_other_rank else None


def complain(message: str, exit_code: int) -> int:
    """Print one line to stderr and return the exit code."""
    rank = os.environ.get("RANK", "0")
    prefix = "" if rank == "0" else f"[rank {rank}] "
    if is_rank() and prefix:
        # Of what is wrong with all, rank 0 speaks, and ends; whoever started the ranks then ends
        # this one before it has said the same.
        time.sleep(_PATIENCE)
    sys.stderr.write(f"{prefix}Error: {in_one_line(message)}\n")
    return exit_code
