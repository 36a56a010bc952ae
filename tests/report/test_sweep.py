import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from src.common.files import lock
from src.common.sealed import write_sealed
from src.report.summary import write_summary
from src.report.sweep import point_name, report_sweep, result_of


class Sweep:
    """Writes points and their runs."""

    def __init__(self, root: Path, make_summary: Any) -> None:
        self.root, self.make = root, make_summary
        self.records: list[Path] = []

    def point(self, exit_code: int = 0, folder: str | None = None, error: Any = None) -> Path:
        """A point with a finished run, unless another folder is named; returns the run's."""
        number = len(self.records)
        run = self.root / (folder or f"runs/{number}")
        if folder is None:
            run.mkdir(parents=True)
            write_summary(self.make(80.0, seed=number), run)
        record = self.root / str(number) / "point.json"
        record.parent.mkdir()
        point = {"overrides": [f"seed={number}"], "exit_code": exit_code, "folder": str(run)}
        write_sealed(record, point | {"of": point_name(record.parent), "error": error})
        self.records.append(record)
        return run


@pytest.fixture
def sweep(tmp_path: Path, make_summary: Any) -> Sweep:
    return Sweep(tmp_path, make_summary)


def test_failures_are_named_and_counted(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    sweep.point()
    sweep.point(exit_code=2, error="bad *value")
    (sweep.point() / "summary.json").write_text("{")  # damaged since
    (sweep.point() / "summary.json").unlink()
    write_summary(sweep.make(status="failed"), sweep.point())
    sweep.point()
    sweep.records[-1].write_text('{"exit_code": 0}')
    sweep.point()
    sweep.records[-1].unlink()
    sweep.point(folder="teacher_digits_net/abc")  # leaves no summary
    assert report_sweep(sweep.root, sweep.records) == 6
    assert "8 points, 6 failed" in capsys.readouterr().out
    failed = [
        line
        for line in (sweep.root / "table.md").read_text().splitlines()
        if line.startswith("- failed: ")
    ]
    for line, said in zip(
        failed,
        [
            r"`seed=1`: bad \*value",
            f"`seed=2`: '{sweep.root}/runs/2/summary.json' cannot be read",
            f"`seed=3`: '{sweep.root}/runs/3/summary.json' is missing",
            f"`seed=4`: '{sweep.root}/runs/4/summary.json' says failed",
            f"`{sweep.root}/5`: '{sweep.records[5]}' has no seal",
            f"`{sweep.root}/6`: '{sweep.records[6]}' is missing; run the same sweep again",
        ],
        strict=True,
    ):
        assert said in line
    assert len((sweep.root / "table.csv").read_text().splitlines()) == 2


def test_a_folder_that_several_points_share_is_counted_once(sweep: Sweep) -> None:
    sweep.point()
    sweep.point(folder="runs/0")
    assert report_sweep(sweep.root, sweep.records) == 0
    assert "copies:" not in (sweep.root / "table.md").read_text()


def test_the_record_of_another_point_is_a_failure(sweep: Sweep) -> None:
    sweep.point()
    sweep.point()
    shutil.copy(sweep.records[0], sweep.records[1])
    assert report_sweep(sweep.root, sweep.records) == 1
    name = sweep.root.name
    said = f"'{sweep.records[1]}' is not of '{name}/1' but of '{name}/0'; run the same sweep again"
    assert said in (sweep.root / "table.md").read_text()


def test_a_sweep_that_was_moved_is_read(sweep: Sweep, tmp_path: Path) -> None:
    sweep.point()
    moved = tmp_path / "elsewhere" / sweep.root.name
    (record,) = sweep.records
    shutil.copytree(record.parent, moved / "0")
    assert report_sweep(moved, [moved / "0" / "point.json"]) == 0


def test_points_of_one_setting_and_several_results_are_failures(
    sweep: Sweep, make_summary: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.point()
    for accuracy in (70.0, 71.0):
        write_summary(make_summary(accuracy, seed=7), sweep.point())
    assert report_sweep(sweep.root, sweep.records) == 2
    assert "3 points, 2 failed" in capsys.readouterr().out
    markdown = (sweep.root / "table.md").read_text()
    for number in (1, 2):
        assert f"- failed: `seed={number}`: '{sweep.root}/runs/{number}' and '" in markdown
    assert "hold different results of seed 7" in markdown
    assert len((sweep.root / "table.csv").read_text().splitlines()) == 2


def test_a_record_without_its_folder_says_so(sweep: Sweep) -> None:
    sweep.point()
    record = sweep.records[0]
    point = json.loads(record.read_text()) | {"folder": ""}
    write_sealed(record, {key: value for key, value in point.items() if key != "seal"})
    assert result_of(record) == (
        "seed=0",
        "it has ended without saying where its run lies; run the same sweep again",
    )


def test_the_tables_lie_there_before_they_are_shown(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost() -> None:
        raise BrokenPipeError

    monkeypatch.setattr("src.report.sweep.console", lost)
    sweep.point()
    with pytest.raises(BrokenPipeError):
        report_sweep(sweep.root, sweep.records)
    assert (sweep.root / "table.md").exists()
    assert len((sweep.root / "table.csv").read_text().splitlines()) == 2


def test_a_point_that_somebody_is_at_is_waited_for_or_a_failure(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.point()
    (record,) = sweep.records
    with ThreadPoolExecutor() as pool:
        with lock(record.parent):
            assert report_sweep(sweep.root, sweep.records, wait=False) == 1
            assert "but another process is using it" in (sweep.root / "table.md").read_text()
            waiting = pool.submit(report_sweep, sweep.root, sweep.records)
            time.sleep(0.2)
            assert not waiting.done()
        assert waiting.result(timeout=60) == 0
