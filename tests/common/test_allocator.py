"""Freed memory is used again, and given back when it is asked for."""

import platform
import subprocess
import sys

import pytest

from src.common import allocator

_PROGRAM = """
import psutil
from src.common import allocator

def resident():
    return psutil.Process().memory_info().rss // 2**20

def use_and_free():
    del [bytearray(32 * 2**20) for _ in range(8)][:]

use_and_free()
given_back = resident()
print(allocator.keep_freed_memory())
use_and_free()
print(resident() - given_back)
allocator.give_freed_memory_back()
print(resident() - given_back)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_kept_until_it_is_to_be_given_back() -> None:
    found = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    done, kept, rest = found.stdout.split()
    assert done == "True"
    assert int(kept) > 200  # of 256 MiB
    assert abs(int(rest)) < 20


@pytest.mark.parametrize(("largest", "done"), [(2**31, True), (2**25, True), (2**20, False)])
def test_an_older_library_takes_a_smaller_limit_or_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, largest: int, done: bool
) -> None:
    taken = {}

    class Library:
        def mallopt(self, parameter: int, value: int) -> int:
            if value > largest:
                return 0
            taken[parameter] = value
            return 1

    monkeypatch.setattr(allocator, "_glibc", Library)
    assert allocator.keep_freed_memory() is done
    assert taken == ({-3: min(2**30, largest), -1: -1} if done else {})
