import time

import numpy as np
import pytest

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
