"""A grid in which one point is bad, run twice."""

import csv
import errno
import json
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf, open_dict

from src.common.errors import UserError
from src.common.files import lock
from src.common.sealed import read_own
from src.point import digest, run_point
from src.report.__main__ import main as report
from src.report.sweep import point_name
from src.sweep import SweepReport
from tests.compose import composed
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


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a sweep that this process has begun, with a program that ends at once."""
    monkeypatch.setenv("KDCI_SWEEP_FOLDER", "")
    monkeypatch.setenv("KDCI_SWEEP_START", "")
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho Error: no >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    start(tmp_path / "sweep")
    return tmp_path / "sweep"


def start(folder: Path) -> None:
    SweepReport().on_multirun_start(composed(f"hydra.sweep.dir={folder}"))


def end(folder: Path) -> Any:
    with pytest.raises(SystemExit) as caught:
        SweepReport().on_multirun_end(composed(f"hydra.sweep.dir={folder}"))
    return caught.value.code


def test_whatever_the_clock_says_the_points_of_a_call_count(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        (begun / str(number)).mkdir()
        run_point([f"seed={number}"], begun / str(number))
    (begun / "notes").mkdir()
    start(begun)
    for number in (1, 0):
        run_point([f"seed={number}"], begun / str(number))
        os.utime(begun / str(number) / ".begun", (0, 0))  # the clock has stepped back
    assert end(begun) == 1
    said = capsys.readouterr().out
    assert "failed: seed=0: no" in said
    assert "2 points, 2 failed" in said


def test_a_sweep_without_points_has_not_ended_well(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        SweepReport().on_multirun_end(composed(f"hydra.sweep.dir={begun}"))
    assert caught.value.code == 2
    assert "but none has begun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (["seed=range(0,0)"], "values in the range 'seed=range(0,0)', but there is none"),
        (["seed=0,1", "kdci=glob(b*)"], "'kdci=glob(b*)' in hydra.sweeper.params; list the"),
    ],
)
def test_a_sweep_over_nothing_does_not_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], points: list[str], said: str
) -> None:
    """As typed, or in an experiment's file."""
    typed, listed = (composed(f"hydra.sweep.dir={tmp_path}/sweep") for _ in range(2))
    with open_dict(typed), open_dict(listed):
        typed.hydra.overrides.task = points
        listed.hydra.sweeper.params = dict(each.split("=", 1) for each in points)
        typed.hydra.sweeper.params = dict.fromkeys((each.split("=")[0] for each in points), "1,2")
    for each in (typed, listed):
        with pytest.raises(SystemExit) as caught:
            SweepReport().on_multirun_start(each)
        assert caught.value.code == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("subdir", [".", "/data/points", "../points", "same"])
def test_points_are_recorded_below_their_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], subdir: str
) -> None:
    config = composed(f"hydra.sweep.dir={tmp_path}/sweep", f"hydra.sweep.subdir={subdir}")
    with pytest.raises(SystemExit) as caught:
        SweepReport().on_multirun_start(config)
    assert caught.value.code == 2
    expected = f"such as ${{hydra.job.num}}, but got '{subdir}'"
    assert expected in capsys.readouterr().err


def test_no_point_is_recorded_where_its_sweep_does_not_look(begun: Path) -> None:
    (begun.parent / "0").mkdir()
    (begun / "1").symlink_to(begun.parent / "0")
    for record in (begun.parent / "0", begun / "../0", begun / "1", begun):
        with pytest.raises(UserError, match=f"record below its sweep's, '{begun}', but got"):
            run_point([], record)
    assert not any((begun.parent / "0").iterdir())


def test_no_point_takes_the_record_of_another(begun: Path) -> None:
    record = begun / "same"
    record.mkdir()
    run_point(["seed=0"], record)
    run_point(["seed=0"], record)  # again, as a queue does that has stopped it
    with pytest.raises(UserError, match=r"same' is that of seed=0 already; leave hydra\.sweep"):
        run_point(["seed=1"], record)
    assert read_own(record / "point.json", point_name(record))["overrides"] == ["seed=0"]
    (record / "point.json").write_text("{")  # of which its reader speaks
    run_point(["seed=1"], record)
    start(begun)
    run_point(["seed=2"], record)  # of a later call, whose points may be others


def test_points_of_one_number_have_records_of_their_own() -> None:
    """Options' files may be edited while a sweep runs, and the command given again."""
    OmegaConf.register_new_resolver("digest", digest, replace=True)
    records = []
    for seed, number in (0, 16), (1, 16), (0, 8), (0, 16):
        config = composed().copy()
        with open_dict(config):
            config.hydra.job.num, config.hydra.job.name = 3, str(len(records))
            config.seed, config.kdci.N = seed, number
        records.append(config.hydra.sweep.subdir)
    assert records[0] == records[3]
    assert len(set(records)) == 3
    assert re.fullmatch(r"3-[0-9a-f]{8}", records[0])


def test_a_point_counts_for_each_call_that_has_come_to_it(
    begun: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (begun / "0").mkdir()
    run_point([], begun / "0")
    first = os.environ["KDCI_SWEEP_START"]
    start(begun)
    assert os.environ["KDCI_SWEEP_START"] != first
    run_point([], begun / "0")
    monkeypatch.setenv("KDCI_SWEEP_START", first)
    assert end(begun) == 1
    assert "1 points, 1 failed" in capsys.readouterr().out


def test_a_point_that_another_call_is_at_is_waited_for(begun: Path) -> None:
    record = begun / "0"
    record.mkdir()
    theirs = ("folder.txt", "point.json")
    with ThreadPoolExecutor() as pool:
        with lock(record):
            for name in theirs:
                (record / name).write_text("theirs")
            waiting = pool.submit(run_point, [], record)
            time.sleep(0.2)
            assert [(record / name).read_text() for name in theirs] == ["theirs"] * 2
        waiting.result(timeout=60)
    assert read_own(record / "point.json", point_name(record))["exit_code"] == 3


def test_a_full_disk_at_the_end_is_one_line(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    (begun / "0").mkdir()
    run_point([], begun / "0")
    capsys.readouterr()
    monkeypatch.setattr("src.common.files.os.replace", full)
    assert end(begun) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: Cannot write '{begun}/table.md' (No space left on device)")


def test_a_sweep_that_cannot_begin_ends_with_one_line(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (begun / "file").touch()
    with pytest.raises(SystemExit) as caught:
        start(begun / "file" / "sweep")
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: Cannot write '{begun}/file/sweep' (Not a directory)")


def test_what_nobody_has_foreseen_ends_a_sweep_too(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hydra would make a warning of it, and begin."""
    monkeypatch.delattr("src.sweep.uuid.uuid4")
    with pytest.raises(SystemExit) as caught:
        start(begun)
    assert caught.value.code == 1
    assert "AttributeError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("loading\nError: no GPU\nError: Rank 0 failed with exit code 2", "no GPU"),
        ("[rank 1] Error: no GPU\nError: Rank 1 failed", "[rank 1] no GPU"),
        ("Traceback\nKeyError: 'Error: x'", "KeyError: 'Error: x'"),
    ],
)
def test_a_point_of_several_ranks_failed_for_what_a_rank_says(
    said: str, reason: str, begun: Path
) -> None:
    (begun / "said").write_text(f"{said}\n")
    Path(sys.executable).write_text(f"#!/bin/sh\ncat {begun}/said >&2\nexit 2\n")
    record = begun / "0"
    record.mkdir()
    run_point([], record)
    assert read_own(record / "point.json", point_name(record))["error"] == reason
