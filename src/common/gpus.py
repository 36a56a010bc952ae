"""GPUs shared out among the points of sweeps on one machine.

A lock of a GPU has the GPU's own identifier for its name: two processes that see it under
different numbers, as SLURM and ``CUDA_VISIBLE_DEVICES`` have it, still mean the same one.
"""

import ctypes
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from src.common.files import content_hash, writing

_log = logging.getLogger(__name__)
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_DRIVER, _NO_DEVICE = "libcuda.so.1", 100
_POLL = 0.5  # seconds


@contextmanager
def own_gpus(count: int) -> Iterator[None]:
    """Show this process ``count`` GPUs that no other point of a sweep works on; call before torch.

    It waits, with a line, while others hold them. Nothing happens where there are fewer than
    ``count``, whoever has given them out, which :func:`src.common.device.device_of` then says.

    Raises:
        UserError: If the folder of the locks cannot be written.
    """
    names = visible_gpus()
    if not 0 < count <= len(names):
        yield
        return
    # Of a user and a machine, as the folder of temporary files is of a machine.
    folder = Path(tempfile.gettempdir(), f"kdci-gpus-{os.getuid()}")
    with taken(count, names, folder) as ordinals:
        given = os.environ.get(_VISIBLE)
        tokens = given.split(",") if given else [str(index) for index in range(len(names))]
        os.environ[_VISIBLE] = ",".join(tokens[ordinal].strip() for ordinal in ordinals)
        _log.info("Taking GPU %s", os.environ[_VISIBLE])
        yield


@contextmanager
def taken(count: int, names: Sequence[str], folder: Path) -> Iterator[list[int]]:
    """Hold ``count`` of some things against other processes, at most until this one dies.

    Whoever waits holds nothing, so that two cannot wait for each other, and lets nobody pass who
    wants any of the same things, so that many who want one do not keep out one who wants two.

    Args:
        count: How many, at most as many as there are.
        names: What each is called, by all processes alike.
        folder: Where their locks lie; made if need be, for this user only.

    Yields:
        Indices of those that are held.

    Raises:
        UserError: If the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    locks = [FileLock(folder / f"{name}.lock") for name in names]
    turn = FileLock(folder / f"turn-{content_hash(sorted(names))[:12]}.lock")
    held: list[int] = []
    with suppress(Timeout), turn.acquire(timeout=_POLL):  # others look for themselves just now
        held = _take(count, locks)
    if not held:
        _log.info("Waiting for %d of %d GPUs, which other points work on", count, len(names))
        with turn:
            while not (held := _take(count, locks)):
                time.sleep(_POLL)
    try:
        yield held
    finally:
        for index in held:
            locks[index].release()


def _take(count: int, locks: Sequence[FileLock]) -> list[int]:
    """Indices of ``count`` locks that are held from now on; none if fewer are free."""
    held: list[int] = []
    for index, lock in enumerate(locks):
        with suppress(Timeout):
            if len(held) < count:
                lock.acquire(timeout=0)
                held.append(index)
    if len(held) == count:
        return held
    for index in held:
        locks[index].release()
    return []


def visible_gpus() -> list[str]:
    """Identifiers of the GPUs that CUDA would show this process, in its order.

    Another process is asked: one that has asked the driver no longer heeds what it is to see.
    Empty without a driver, as on machines without a GPU; torch is not needed.
    """
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return []
    asked = subprocess.run(
        [sys.executable, "-m", "src.common.gpus"], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        reason = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        _log.warning("Cannot tell the GPUs apart (%s); points may share the first", reason)
        return []
    return asked.stdout.split()


def _ask_driver() -> Iterator[str]:
    """The identifiers, by CUDA's driver interface; ends the process if it refuses."""
    driver = ctypes.CDLL(_DRIVER)
    count, device, identifier = ctypes.c_int(), ctypes.c_int(), (ctypes.c_ubyte * 16)()
    code = driver.cuInit(0)
    if code == _NO_DEVICE:
        return
    _require(code)
    _require(driver.cuDeviceGetCount(ctypes.byref(count)))
    for ordinal in range(count.value):
        _require(driver.cuDeviceGet(ctypes.byref(device), ordinal))
        # Of a slice of a GPU (MIG) the second version gives the slice's own.
        _require(driver.cuDeviceGetUuid_v2(ctypes.byref(identifier), device))
        yield bytes(identifier).hex()


def _require(code: int) -> None:
    if code != 0:
        sys.exit(f"CUDA error {code}")


if __name__ == "__main__":
    sys.stdout.write("\n".join(_ask_driver()))
