"""Errors whose message is meant for the person at the terminal."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: one line that says what, where, what was expected, and what to do.

    ``src.run`` prints the message without a traceback and exits with code 2.
    """


class RankError(RuntimeError):
    """A rank failed; it has said why on its own."""

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f"Rank {rank} failed with exit code {exit_code}; all ranks were stopped")
        self.exit_code = exit_code


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known name that is most alike, else nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""
