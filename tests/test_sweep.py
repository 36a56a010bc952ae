"""A grid in which one point is bad, run twice."""

import csv
import json
from pathlib import Path

import pytest

from src.report.__main__ import main as report
from tests.smoke import Finished, Smoke

pytestmark = pytest.mark.xdist_group("sweep")
GRID = ["kdci=none,backdoor", "kdci.N=4,0,8", "--multirun"]
POINTS = [["kdci=none", f"kdci.N={n}"] for n in (4, 0, 8)]
POINTS += [["kdci=backdoor", f"kdci.N={n}"] for n in (4, 0, 8)]
BAD = ["kdci=backdoor", "kdci.N=0"]


@pytest.fixture(scope="module")
def sweep(smoke: Smoke, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The grid's first run, over a teacher and a stage (a) that lie in the cache."""
    assert smoke.default
    return smoke.command(tmp_path_factory.mktemp("sweep"), *GRID)


def records(sweep: Finished) -> list[dict[str, object]]:
    paths = sorted((sweep.outputs / "sweeps").glob("*/*/point.json"))
    return [json.loads(path.read_text()) for path in paths]


def table(sweep: Finished, suffix: str) -> Path:
    (path,) = (sweep.outputs / "sweeps").glob(f"*/table.{suffix}")
    return path


def test_a_bad_point_is_recorded_and_the_others_are_finished(sweep: Finished) -> None:
    points = records(sweep)
    chosen = [[o for o in point["overrides"] if o.startswith("kdci")] for point in points]  # type: ignore[attr-defined]
    assert chosen == POINTS
    codes = [point["exit_code"] for point in points]
    assert codes == [2 if point == BAD else 0 for point in POINTS]
    (error,) = [point["error"] for point in points if point["exit_code"]]
    assert error == "Wrong value of 'kdci.N': expected greater than 0 or 'auto', but got 0"
    assert sweep.exit_code == 1


def test_vanilla_points_collapse_into_one_run(sweep: Finished) -> None:
    summaries = sweep.summaries
    assert [summary["kdci"]["name"] for summary in summaries] == ["backdoor", "backdoor", "none"]
    assert {summary["kdci"]["N"] for summary in summaries} == {4, 8, None}
    assert {point["folder"] for point in records(sweep)[:3]} == {
        str(next((sweep.outputs / "digits_dafl_none").glob("*/")))
    }


def test_stage_a_is_paid_for_once(sweep: Finished) -> None:
    assert [summary["substitution"]["reused"] for summary in sweep.summaries] == [True] * 3


def test_one_table_shows_all_points_and_what_failed(sweep: Finished) -> None:
    assert "6 points, 1 failed" in sweep.stdout
    assert "expected greater than 0 or 'auto', but got 0" in sweep.stdout
    rows = list(csv.DictReader(table(sweep, "csv").read_text().splitlines()))
    assert len(rows) == 3
    markdown = table(sweep, "md").read_text()
    assert "- failed: `" in markdown
    assert "kdci.N=0" in markdown


def test_no_point_prints_a_traceback(sweep: Finished) -> None:
    assert "Traceback" not in sweep.stderr
    assert sum(line.startswith("Error: ") for line in sweep.stderr.splitlines()) == 1


def test_the_same_sweep_again_repeats_only_what_failed(smoke: Smoke, sweep: Finished) -> None:
    before = {path: path.read_bytes() for path in sweep.outputs.rglob("summary.json")}
    again = smoke.command(sweep.outputs, *GRID)
    assert again.exit_code == 1
    assert "6 points, 1 failed" in again.stdout
    assert {path: path.read_bytes() for path in sweep.outputs.rglob("summary.json")} == before
    assert "Reusing" not in again.stderr


def test_the_report_reads_the_outputs(
    sweep: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report([str(sweep.outputs), "--csv", str(tmp_path / "rows.csv")]) == 0
    assert "digits" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert len(rows) == 3
