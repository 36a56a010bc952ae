"""Errors whose message is meant for the person at the terminal."""

import difflib
import re
import signal
from collections.abc import Iterable
from itertools import takewhile

from src.common.package import IS_CLONE


class UserError(ValueError):
    """Bad input: one line that says what, where, what was expected, and what to do.

    ``src.run`` prints the message without a traceback and exits with code 2.
    """


class MissingExtraError(UserError):
    """A library that only some options need is not installed.

    Args:
        library: What is missing.
        extra: What brings it.
        otherwise: How to do without, if that can be.
    """

    def __init__(self, library: str, extra: str, otherwise: str | None = None) -> None:
        run = f"run `pip install -e '.[{extra}]'` in the program's folder"
        cure = run if IS_CLONE else f"run `pip install 'kdci[{extra}]'`"
        super().__init__(
            f"Expected {library} to be installed; {cure}{f', or {otherwise}' if otherwise else ''}"
        )


# Gloo's and NCCL's words; torch has no class of its own for them.
_LOST_PEER = re.compile("gloo.*(closed|reset) by peer|NCCL.*remote process exited", re.DOTALL)


def is_lost_peer(error: BaseException) -> bool:
    """Whether a rank only met another one's end, and has nothing to say of it."""
    return bool(_LOST_PEER.search(str(error)))


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


def in_one_line(said: object) -> str:
    """A text, or what an error says, without its line breaks."""
    return " ".join(str(said).split())


def reason_of(error: BaseException) -> str:
    """What an error says in one line, or what it is where it says nothing."""
    return in_one_line(error) or type(error).__name__


def described(error: BaseException) -> str:
    """What an error is and says, in one line."""
    said = in_one_line(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known name that is most alike, else nothing."""
    found = nearest_name(name, known)
    return "" if found is None else f"; did you mean '{found}'?"


def nearest_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most alike, if any is alike.

    Of names that are alike, those count most that begin as the given one does: wrn16_1 for wrn17.
    """

    def likeness(other: str) -> tuple[bool, int, float]:
        is_same = name.casefold() == other.casefold()
        pairs = zip(name, other, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return is_same, same, difflib.SequenceMatcher(None, name, other).ratio()

    alike = difflib.get_close_matches(name, list(known), n=10, cutoff=0.5)
    return max(sorted(alike), key=likeness, default=None)
