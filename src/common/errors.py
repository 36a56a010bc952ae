"""Errors whose message is meant for the person at the terminal."""

import difflib
import signal
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: one line that says what, where, what was expected, and what to do.

    ``src.run`` prints the message without a traceback and exits with code 2.
    """


class RankError(RuntimeError):
    """A rank failed; it has said why on its own."""

    def __init__(self, rank: int, exit_code: int) -> None:
        if exit_code < 0:  # a signal; as a number it would be the shell's to interpret
            name = signal.Signals(-exit_code).name
            what = f"was killed by {name}; the same command goes on from what is saved"
        else:
            what = f"failed with exit code {exit_code}; all ranks were stopped"
        super().__init__(f"Rank {rank} {what}")
        self.exit_code = exit_code if exit_code > 0 else 1


# Failures that have a line of their own; every other one is a fault of the program.
FORESEEN = (UserError, RankError, FloatingPointError, OSError, MemoryError)


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known name that is most alike, else nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""
