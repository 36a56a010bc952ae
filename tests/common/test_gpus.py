import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from src.common import gpus, package
from src.common.gpus import own_gpus, visible_gpus

# Takes some of four things, says which, and holds them until it is told to go on.
HOLDER = """
import logging, sys
from pathlib import Path
from src.common.gpus import taken
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
names = sys.argv[3].split(",")
with taken(int(sys.argv[2]), names, Path(sys.argv[1])) as held:
    print(*[names[index] for index in held], flush=True)
    sys.stdin.readline()
"""
WAITING = "Waiting for"


class Holder:
    """A process that holds some of what it sees."""

    def __init__(self, folder: Path, count: int, names: str = "a,b,c,d") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", HOLDER, str(folder), str(count), names],
            cwd=package.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def said(self) -> str:
        """Its next line: that it waits, or what it holds."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """Let it go on, and so free what it holds."""
        self.process.communicate("\n")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[Holder]]:
    holders: list[Holder] = []
    yield holders
    for holder in holders:
        holder.process.kill()
        holder.process.communicate()


def test_processes_take_different_ones_and_the_next_waits(
    tmp_path: Path, started: list[Holder]
) -> None:
    started += [Holder(tmp_path, 2) for _ in range(2)]
    held = [holder.said().split() for holder in started]
    assert sorted(held) == [["a", "b"], ["c", "d"]]
    started.append(Holder(tmp_path, 1))
    assert started[2].said() == "Waiting for 1 of 4 GPUs, which other points work on"
    started[0].process.kill()  # the system frees what it held
    assert started[2].said() == held[0][0]


def test_one_who_wants_two_is_not_kept_out_by_many_who_want_one(
    tmp_path: Path, started: list[Holder]
) -> None:
    started += [Holder(tmp_path, 1, "a,b") for _ in range(2)]
    assert sorted(holder.said() for holder in started) == ["a", "b"]
    started.append(Holder(tmp_path, 2, "a,b"))
    assert started[2].said().startswith(WAITING)
    started.append(Holder(tmp_path, 1, "a,b"))
    assert started[3].said().startswith(WAITING)
    started[0].end()
    time.sleep(3 * gpus._POLL)  # one is free, which the last could have
    started[1].end()
    assert started[2].said() == "a b"
    started[2].end()
    assert started[3].said() == "a"


def test_who_sees_other_ones_does_not_wait_for_anybodys_turn(
    tmp_path: Path, started: list[Holder]
) -> None:
    started += [Holder(tmp_path, 1, "a"), Holder(tmp_path, 1, "a"), Holder(tmp_path, 1, "b")]
    assert {started[0].said()[:7], started[1].said()[:7]} == {"a", "Waiting"}
    assert started[2].said() == "b"


@pytest.mark.parametrize(
    ("given", "count", "expected"),
    [
        (None, 1, ["0", "1"]),
        (None, 2, ["0,1", "2,3"]),
        ("3, 1,0,2", 1, ["3", "1"]),
        ("GPU-8f,GPU-2c,MIG-77,GPU-9a", 2, ["GPU-8f,GPU-2c", "MIG-77,GPU-9a"]),
    ],
)
def test_points_see_what_they_took_of_what_they_were_given(
    given: str | None,
    count: int,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(gpus, "visible_gpus", lambda: ["w", "x", "y", "z"])
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    with ExitStack() as held:
        for seen in expected:
            if given is None:
                monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
            else:
                monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
            held.enter_context(own_gpus(count))
            assert os.environ["CUDA_VISIBLE_DEVICES"] == seen
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize("names", [[], ["x"]])
def test_nothing_happens_where_there_are_too_few(
    names: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpus, "visible_gpus", lambda: names)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with own_gpus(2):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert list(tmp_path.iterdir()) == []


def test_no_process_is_asked_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_DRIVER", "libnothing_of_the_kind.so.1")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("asked"))
    assert visible_gpus() == []
