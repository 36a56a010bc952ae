"""Processes that end with whoever has started them, which may die without a word.

A rank follows its run, a point its worker or the sweep, joblib's worker the sweep.
"""

import os
import signal
import time
from collections.abc import Callable
from threading import Thread

from src.common.signals import is_rank

_PATIENCE = 300  # seconds
PARENT = "KDCI_PARENT"
"""Names the process that has started this one. Asked of the system, the parent might be somebody
else already."""


def follow_parent() -> None:
    """End this rank or point soon after whoever has started it; a run of its own follows nobody.

    A point stops as if it had been asked to. A rank does not wait: its main thread may wait for
    another rank for ever.
    """
    if PARENT in os.environ:  # torchrun looks after its own
        # What this process starts follows somebody else.
        follow(os.environ.pop(PARENT), leave if is_rank() else _stop)


def leave() -> None:
    """End this process at once, whatever its main thread waits for."""
    os._exit(1)


def follow(parent: str, end: Callable[[], None]) -> None:
    """Have ``end`` called soon after ``parent`` has died.

    Args:
        parent: Number of the process that has started this one.
        end: Ends this process, from a thread of its own.
    """

    def watch() -> None:
        while str(os.getppid()) == parent:
            time.sleep(1)
        end()

    Thread(target=watch, daemon=True).start()


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    leave()  # the main thread has not come back to hear of it
