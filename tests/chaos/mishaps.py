"""What befalls a parallel sweep: when, what, and to which of its processes."""

import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import NamedTuple

import psutil

PARENT, WORKER, POINT, HELPER = "parent", "worker", "point", "helper"
ALL = "SIGKILL to everything"


class Kind(NamedTuple):
    """A signal, and the processes that get it.

    Attributes:
        number: The signal.
        roles: Of whom it is sent to.
        one: To one of them that chance names, or to all.
    """

    number: int
    roles: tuple[str, ...]
    one: bool = True


KINDS: Mapping[str, Kind] = {
    "SIGKILL to a point": Kind(signal.SIGKILL, (POINT,)),
    "SIGKILL to a worker": Kind(signal.SIGKILL, (WORKER,)),
    "SIGKILL to parent and workers": Kind(signal.SIGKILL, (PARENT, WORKER), one=False),
    ALL: Kind(signal.SIGKILL, (PARENT, WORKER, POINT, HELPER), one=False),
    "SIGTERM to a point": Kind(signal.SIGTERM, (POINT,)),
    "SIGTERM to the parent": Kind(signal.SIGTERM, (PARENT,)),
    "SIGINT to everything": Kind(signal.SIGINT, (PARENT, WORKER, POINT, HELPER), one=False),
    "SIGSTOP to a point": Kind(signal.SIGSTOP, (POINT,)),
}


class Mishap(NamedTuple):
    """One disturbance.

    Attributes:
        after: Seconds since the one before.
        kind: A key of ``KINDS``.
        which: Where among those it may befall, in [0, 1).
        pause: Seconds until a stopped process may go on.
    """

    after: float
    kind: str
    which: float
    pause: float


def schedule(seed: int, count: int, seconds: float) -> list[Mishap]:
    """Mishaps for a sweep, the same for the same arguments.

    Args:
        seed: Of all that is left to chance.
        count: How many; every kind comes before any comes again.
        seconds: Over how long they are spread.
    """
    rng, kinds = Random(seed), list[str]()
    while len(kinds) < count:
        kinds += rng.sample(list(KINDS), len(KINDS))
    mean = seconds / max(count, 1)
    return [
        Mishap(rng.uniform(0.2, 1.8) * mean, kind, rng.random(), rng.uniform(1, 8))
        for kind in kinds[:count]
    ]


def role_of(command: Sequence[str], *, is_leader: bool) -> str:
    """What a process of a sweep is.

    Args:
        command: Its command line.
        is_leader: Whether its session is named by it.
    """
    if is_leader:
        return PARENT
    if "hydra.mode=RUN" in command:
        return POINT
    return WORKER if any(part.endswith("popen_loky_posix") for part in command) else HELPER


def targets(mishap: Mishap, roles: Mapping[int, str]) -> list[int]:
    """Those whom it befalls, of process numbers and their roles; none where it cannot be yet.

    Before a sweep has points there is little to disturb, so that all wait for one.
    """
    kind = KINDS[mishap.kind]
    found = sorted(pid for pid, role in roles.items() if role in kind.roles)
    if POINT not in roles.values() or not found:
        return []
    return [found[int(mishap.which * len(found))]] if kind.one else found


def befall(mishap: Mishap, processes: Iterable[psutil.Process]) -> None:
    """Send its signal; a stopped process goes on after the pause."""
    number = KINDS[mishap.kind].number
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    if number == signal.SIGSTOP:
        time.sleep(mishap.pause)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()
