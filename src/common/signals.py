"""Signals that ask a run to stop become one exception, and one exit code each."""

import os
import signal
import threading
from types import FrameType

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
    """Let signals that ask to stop raise :class:`Interrupted`; call it in the main thread.

    Signals that the starter has told this process to ignore (``nohup``) stay ignored. A rank dies
    at once: it may hang in a collective, what it has saved is whole, and whoever started it
    speaks for it.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in STOPPING:
        if signal.getsignal(number) == signal.SIG_IGN:
            continue
        signal.signal(number, signal.SIG_DFL if is_rank() else _interrupt)


def is_rank() -> bool:
    """Whether this process is one of several that were started together."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def _interrupt(number: int, _: FrameType | None) -> None:
    for each in STOPPING:  # once is enough: a second one would cut the tidying up short
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)
