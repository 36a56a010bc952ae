"""Signals that ask a run to stop become one exception, and one exit code each."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FOUND = "KDCI_FOUND"
"""Environment variable of ranks that were started here: what was found of their run."""


class Interrupted(BaseException):
    """The run was asked to stop; what it has saved is whole.

    Attributes:
        exit_code: 128 plus the signal's number, as shells have it: 143 for SIGTERM.
    """

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(f"Stopped by {name}; the same command goes on from what is saved")
        self.exit_code = 128 + number


def heed_signals() -> None:
    """Let signals that ask to stop end the program with one line; call it in the main thread.

    They end it at once, since an exception that is raised while a library in C++ is being
    imported aborts; what has to be tidied up is :func:`interruptible`.

    Signals that the starter has told this process to ignore (``nohup``) stay ignored. A rank dies
    without a word: it may hang in a collective, what it has saved is whole, and whoever started
    it speaks for it.
    """
    if threading.current_thread() is threading.main_thread():
        _install(signal.SIG_DFL if is_rank() else _end)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let those signals raise :class:`Interrupted` in the block."""
    if is_rank() or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        heard.append(number)
        # A second one would cut the tidying up short, whoever has set this handler again.
        if len(heard) == 1:
            raise Interrupted(number)

    before = _install(interrupt)
    try:
        yield
    except Interrupted:
        before.clear()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_rank() -> bool:
    """Whether this process is one of several that were started together."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def speaks() -> bool:
    """Whether this process says what is to say of all: it is alone, or rank 0 of torchrun's.

    Where the ranks were started here, whoever started them does.
    """
    return not is_rank() or (FOUND not in os.environ and os.environ["RANK"] == "0")


def _install(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> dict[int, Any]:
    """Set the handler of every signal that asks to stop; return what there was before."""
    heeded = [number for number in STOPPING if signal.getsignal(number) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}


def _end(number: int, _: FrameType | None) -> None:
    stopped = Interrupted(number)
    with suppress(Exception):  # it may be in the middle of writing
        sys.stdout.flush()
    with suppress(OSError):  # nobody may be reading
        os.write(2, f"Error: {stopped}\n".encode())
    os._exit(stopped.exit_code)
