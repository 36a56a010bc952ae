"""That what ``make bench`` times still runs; how long it takes is no test."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import against, kdci_costs, paired_timings, work

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired_timings, "_BATCH", 2)
    monkeypatch.setattr(paired_timings, "_images", lambda: torch.zeros(3, 3, 32, 32).byte())


def test_a_student_step_with_and_without_compensation() -> None:
    for count in (0, 4):
        paired_timings.student_step(CPU, width=1, num_prototypes=count, channels_last=True)()


def test_images_from_the_bank_and_from_files(tmp_path: Path) -> None:
    paired_timings.bank_batches(CPU)()
    paired_timings.png_batches(CPU, tmp_path)()


def test_pairs_are_compared_by_their_ratio() -> None:
    ticks = iter(range(1000))
    shown = paired_timings.paired(
        lambda: None, lambda: next(ticks), CPU, repeats=3, clock=lambda: float(next(ticks))
    )
    assert shown == ("1000.0", "2000.0", "2.000 (2.000 to 2.000)")


def test_both_sides_are_first_in_turn() -> None:
    order: list[str] = []
    found = against.alternate(lambda: order.append("base"), lambda: order.append("here"), 0)
    assert order[:6] == ["base", "here", "here", "base", "base", "here"]
    assert len(found["wall"]) == len(found["cpu"]) == 5
    assert against._row({"wall": [[1, 2]] * 3, "cpu": [[2, 3]] * 3}) == [
        *("1000.0", "2000.0", "2.000 (2.000 to 2.000)", "1.500", "3")
    ]


def test_the_parts_of_kdci_costs_have_functions() -> None:
    for name in ("steps", "fits", "memory", "growth"):
        assert callable(getattr(kdci_costs, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", work.NAMES)
def test_a_piece_of_work(name: str) -> None:
    work.work_of(name)()


@pytest.mark.slow
def test_this_revision_against_itself() -> None:
    words = ["-m", "benchmarks.against", "HEAD", "evaluation", "--seconds", "1", "--threads", "1"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "evaluation" in done.stdout
