import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from src.common.measure import Measurement, measured


def fill_for_a_while() -> None:
    """Hold 320 MiB, touched, long enough to be sampled."""
    block = np.ones(40 * 2**20)
    time.sleep(0.15)
    del block


def test_seconds_add_up_and_memory_is_the_peak() -> None:
    cost = Measurement()
    for _ in range(2):
        with measured(cost):
            time.sleep(0.05)
    assert 0.1 <= cost.seconds < 5
    assert 50 < cost.peak_memory_mb < 100_000


def test_memory_that_was_freed_within_the_block_counts() -> None:
    calm, busy = Measurement(), Measurement()
    with measured(calm):
        pass
    with measured(busy):
        fill_for_a_while()
    assert busy.peak_memory_mb > calm.peak_memory_mb + 250


def test_memory_of_an_earlier_stage_does_not_count() -> None:
    busy, calm = Measurement(), Measurement()
    with measured(busy):
        fill_for_a_while()
    with measured(calm):
        pass
    assert calm.peak_memory_mb < busy.peak_memory_mb - 250


def test_a_stage_that_fails_was_measured_too() -> None:
    cost = Measurement()

    def fail() -> None:
        with measured(cost):
            time.sleep(0.02)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert cost.seconds >= 0.02
    assert cost.peak_memory_mb > 0


class Device:
    """A GPU's memory as torch counts it, MiB."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, is_used: bool = True) -> None:
        self.now = self.peak = 0
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: is_used)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: self.peak * 2**20)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)

    def reset(self) -> None:
        self.peak = self.now

    def hold(self, size: int) -> None:
        self.now = size
        self.peak = max(self.peak, size)


@pytest.fixture
def no_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    none = SimpleNamespace(rss=0)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _: none)


@pytest.mark.usefixtures("no_host_memory")
@pytest.mark.parametrize(
    ("before", "within", "after", "outer"),
    [(900, 50, 60, 900), (20, 800, 60, 800), (20, 50, 700, 700)],
)
def test_the_peak_on_a_device_covers_what_is_measured_within(
    monkeypatch: pytest.MonkeyPatch, before: int, within: int, after: int, outer: int
) -> None:
    device, costs = Device(monkeypatch), [Measurement() for _ in range(4)]
    with measured(costs[0]):
        device.hold(before)
        device.hold(10)
        with measured(costs[1]):
            device.hold(within)
            with measured(costs[2]):
                device.hold(5)
        device.hold(10)
        device.hold(after)
    with measured(costs[3]):
        device.hold(1)
    assert [cost.peak_memory_mb for cost in costs] == [outer, within, within, after]


@pytest.mark.usefixtures("no_host_memory")
def test_a_device_that_is_not_in_use_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    device, cost = Device(monkeypatch, is_used=False), Measurement()
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: pytest.fail("was begun"))
    with measured(cost):
        pass
    assert (cost.peak_memory_mb, device.peak) == (0, 0)
