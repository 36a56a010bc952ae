import shutil
from pathlib import Path
from typing import Any

import pytest

from src.common.sealed import write_sealed
from src.report.summary import write_summary
from src.report.sweep import point_name, report_sweep


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
