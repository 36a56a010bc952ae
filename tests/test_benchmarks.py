"""That what ``make bench`` times still runs; how long it takes is no test."""

import json
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


def test_growth_is_given_as_a_power() -> None:
    shown = kdci_costs._powers({10: 5.0, 100: 50.0, 400: 100.0})
    assert list(shown) == ["10: 5.0", "100: 50.0 (1.00)", "400: 100.0 (0.50)"]


def test_every_growth_has_sizes_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for what, letter, _, actions in kdci_costs._growing():
        found[what.partition(",")[0], letter] = list(actions)
    assert found["dictionary", "M"] == [10_000, 100_000, 1_000_000]
    assert found["arithmetic compensation", "K"] == [10, 100, 1000]
    assert found["WRN-16-1 step", "pixels"] == [1024, 4096, 50_176]
    assert len(found) == 8


def test_costs_are_kept_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = kdci_costs.Part("Steps", ("N", "ratio"), [("16", "1.01")])
    monkeypatch.setitem(kdci_costs._PARTS, "steps", lambda: part)
    monkeypatch.setattr(sys, "argv", ["kdci_costs", "steps", "--json", str(tmp_path / "c.json")])
    kdci_costs.main()
    kept = json.loads((tmp_path / "c.json").read_text())
    assert kept["steps"] == {"title": "Steps", "columns": ["N", "ratio"], "rows": [["16", "1.01"]]}
    assert "torch" in kept["where"]
    assert "1.01" in capsys.readouterr().out


def test_a_part_that_there_is_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kdci_costs", "stepz"])
    with pytest.raises(SystemExit):
        kdci_costs.main()
    assert "of steps, fits, memory, growth, but got stepz" in capsys.readouterr().err


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
