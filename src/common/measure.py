"""Seconds and peak memory of a stage."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from src.common.allocator import give_freed_memory_back

_SAMPLING_SECONDS = 0.05
_on_device: list[int] = []  # peak memory there of every measurement that lasts, bytes


@dataclass
class Measurement:
    """What a stage cost.

    Attributes:
        seconds: Wall-clock time, accumulated over all times the stage was entered.
        peak_memory_mb: Largest resident memory of this process, plus, with CUDA, the largest
            memory allocated on the device; MiB.
    """

    seconds: float = 0.0
    peak_memory_mb: float = 0.0


@contextmanager
def measured(into: Measurement) -> Iterator[None]:
    """Add the time of the block to ``into`` and raise its peak memory to the block's.

    Resident memory is sampled, since the operating system's own maximum never falls. Blocks may
    be nested: the outer one's peak covers the inner one's.
    """
    give_freed_memory_back()  # what an earlier stage needed is none of this one's
    process = psutil.Process()
    stop = threading.Event()
    peak = process.memory_info().rss

    def sample() -> None:
        nonlocal peak
        while not stop.wait(_SAMPLING_SECONDS):
            peak = max(peak, process.memory_info().rss)

    _begin_on_device()
    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    start = time.perf_counter()
    try:
        yield
    finally:
        into.seconds += time.perf_counter() - start
        stop.set()
        thread.join()
        peak = max(peak, process.memory_info().rss) + _end_on_device()
        into.peak_memory_mb = max(into.peak_memory_mb, peak / 2**20)


def _begin_on_device() -> None:
    """Set torch's only maximum back, once the measurements around this one know it."""
    _look_at_device()
    if torch.cuda.is_initialized():  # else nothing was allocated, and asking would begin to use it
        torch.cuda.reset_peak_memory_stats()
    _on_device.append(0)


def _end_on_device() -> int:
    """Peak of the measurement that was begun last, bytes."""
    _look_at_device()
    return _on_device.pop()


def _look_at_device() -> None:
    """Raise all peaks to torch's maximum, which is of a time at which all of them lasted."""
    found = torch.cuda.max_memory_allocated()  # on the current device; 0 where none is in use
    _on_device[:] = [max(peak, found) for peak in _on_device]
