"""Sweeps that choose their own points, and what they are told of each."""

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import open_dict

from src.common.errors import UserError
from src.common.sealed import read_own, write_sealed
from src.point import POINT, run_point, value_of
from src.report.summary import write_summary
from src.report.sweep import point_name
from src.sweep import SweepReport, _mention_other_images, _records, reported
from tests.compose import composed
from tests.report.conftest import make_summary as make_summary
from tests.smoke import Finished, Smoke

PLUGIN = "hydra_plugins.hydra_optuna_sweeper"


def ended(folder: Path, exit_code: int = 0, summary: Any = None) -> Path:
    """The record of a point, and what its run has left."""
    record, run = folder / "sweep" / "0", folder / "run"
    record.mkdir(parents=True, exist_ok=True)
    run.mkdir(exist_ok=True)
    point = {"of": point_name(record), "overrides": [], "exit_code": exit_code, "error": None}
    write_sealed(record / POINT, point | {"folder": str(run)})
    if summary is not None:
        write_summary(summary, run)
    return record


def test_a_search_is_told_of_the_agreement(tmp_path: Path, make_summary: Any) -> None:
    held_out = {"held_out": {"images": 51, "agreement": 97.5}}
    for accuracy in (10.0, 90.0):  # whatever the test split says
        record = ended(tmp_path, summary=make_summary(accuracy) | held_out)
        assert value_of(record, "agreement") == 97.5
        assert value_of(record, "acc1") == accuracy


def test_a_point_without_held_out_images_has_no_agreement(
    tmp_path: Path, make_summary: Any
) -> None:
    for nothing in ({}, {"held_out": None}):
        record = ended(tmp_path, summary=make_summary(80.0) | nothing)
        assert value_of(record, "agreement") is None
        assert value_of(record, "acc1") == 80.0


@pytest.mark.parametrize("exit_code", [2, 143, -9])
def test_a_point_that_failed_has_no_value(
    tmp_path: Path, make_summary: Any, exit_code: int
) -> None:
    held_out = {"held_out": {"images": 51, "agreement": 97.5}}
    record = ended(tmp_path, exit_code, summary=make_summary(80.0) | held_out)
    assert value_of(record, "agreement") is value_of(record, "acc1") is None


def test_nor_has_one_that_left_no_result(tmp_path: Path, make_summary: Any) -> None:
    assert value_of(tmp_path / "sweep" / "1", "acc1") is None  # no record
    assert value_of(ended(tmp_path), "acc1") is None  # no summary
    record = ended(tmp_path, summary=make_summary(80.0, status="interrupted"))
    assert value_of(record, "acc1") is None


@pytest.fixture(autouse=True)
def put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a sweep that starts leaves in the environment is gone after a test."""
    monkeypatch.setenv("KDCI_SWEEP_FOLDER", "")
    monkeypatch.setenv("KDCI_SWEEP_START", "")


def start(folder: Path, *overrides: str, over: str = "kdci.N=4,8", listed: Any = None) -> None:
    config = composed(f"hydra.sweep.dir={folder}/sweep", *overrides)
    with open_dict(config):
        config.hydra.overrides.task, config.hydra.sweeper.params = [over], listed
    SweepReport().on_multirun_start(config)


def test_a_search_by_agreement_needs_images_that_are_held_out(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip(PLUGIN)
    search = "hydra/sweeper=search"
    with pytest.raises(SystemExit) as caught:
        start(tmp_path, search)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: Expected one distill.held_out above 0 for all points")
    start(tmp_path, search, "distill.held_out=0.1")
    start(tmp_path, search, "search.objective=acc1")


def test_a_search_among_teachers_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(PLUGIN)
    with pytest.raises(SystemExit):
        start(tmp_path, "hydra/sweeper=search", "task=teacher", "search.objective=acc1")
    assert "but got task=teacher" in capsys.readouterr().err


def test_a_search_has_points(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(PLUGIN)
    search = ("hydra/sweeper=search", "search.objective=acc1")
    for name, count in (("n_trials", 0), ("n_jobs", -1)):
        start(tmp_path, *search, f"hydra.sweeper.{name}=1")
        with pytest.raises(SystemExit):
            start(tmp_path, *search, f"hydra.sweeper.{name}={count}")
        assert f"hydra.sweeper.{name} of 1 or more, but got {count}" in capsys.readouterr().err


def test_a_search_is_over_something(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(PLUGIN)
    search = ("hydra/sweeper=search", "search.objective=acc1")
    start(tmp_path, *search, over="kdci.lr_scale=interval(0.1,1)")
    start(tmp_path, *search, over="kdci.N=4", listed={"seed": "0,1"})
    with pytest.raises(SystemExit):
        start(tmp_path, *search, over="kdci.N=4", listed={"seed": "0", "kdci.N": "4,8"})
    assert "something to search over, but each key has one value" in capsys.readouterr().err


def test_points_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("10", "0", "9"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".begun").write_text("\n")
    assert [record.parent.name for record in _records(tmp_path)] == ["0", "9", "10"]


def test_a_table_is_of_the_points_of_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, calls in (("0", "other\nthis\n"), ("1", "other\n"), ("2", "this\n"), ("3", None)):
        (tmp_path / name).mkdir()
        if calls is not None:
            (tmp_path / name / ".begun").write_text(calls)
    monkeypatch.setenv("KDCI_SWEEP_START", "this")
    assert [record.parent.name for record in _records(tmp_path)] == ["0", "2"]


def test_a_point_forgets_how_it_ended_before(
    tmp_path: Path, make_summary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = ended(tmp_path, summary=make_summary(80.0))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError):  # lost before it could say so
        run_point([], record)
    assert value_of(record, "acc1") is None


def test_a_word_that_is_no_utf_8_ends_no_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nprintf 'x\\351\\nlast\\n' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    record = tmp_path / "sweep" / "0"
    record.mkdir(parents=True)
    run_point([], record)
    point = read_own(record / POINT, point_name(record))
    assert (point["exit_code"], point["error"]) == (3, "last")
    assert "x\ufffd" in capfd.readouterr().err


_LOST = type("TerminatedWorkerError", (RuntimeError,), {"__module__": "joblib.externals.loky"})


@pytest.mark.parametrize(
    ("error", "is_shown"),
    [
        (ValueError("No trials are completed yet."), True),
        (_LOST("a worker was killed"), True),
        (UserError("a point was refused"), True),
        (ValueError("something else"), False),
    ],
    ids=["no value", "lost point", "refused point", "else"],
)
def test_a_sweep_that_ends_by_an_error_of_its_engine_ends_with_the_table_too(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    is_shown: bool,
) -> None:
    folder = ended(tmp_path, exit_code=2).parent
    start(tmp_path)
    (folder / "0" / ".begun").write_text(f"{os.environ['KDCI_SWEEP_START']}\n")
    monkeypatch.setenv("KDCI_SWEEP_PROCESS", str(os.getppid()))  # as in the process of a point
    with pytest.raises(type(error), match=str(error)), reported():
        raise error
    assert not (folder / "table.md").exists()
    monkeypatch.setenv("KDCI_SWEEP_PROCESS", str(os.getpid()))
    with pytest.raises(type(error), match=str(error)), reported():
        raise error
    assert ("1 points, 1 failed" in capsys.readouterr().out) == is_shown
    assert (folder / "table.md").exists() == is_shown


@pytest.mark.parametrize("stages", [1, 2])
def test_points_of_other_images_are_not_compared_in_silence(
    tmp_path: Path, make_summary: Any, caplog: pytest.LogCaptureFixture, stages: int
) -> None:
    records = [tmp_path / "2" / "sweep" / "0" / POINT]  # which has not ended
    for number in range(2):
        artifact = {"artifact": f"cache/{number % stages}"}
        (tmp_path / f"{number}").mkdir()
        summary = make_summary(80.0, substitution=artifact)
        records.append(ended(tmp_path / f"{number}", summary=summary) / POINT)
    _mention_other_images(records)
    assert ("images of 2 stages (a)" in caplog.text) == (stages == 2)


def test_other_sweeps_need_none(tmp_path: Path) -> None:
    start(tmp_path)


def test_the_option_fits_the_sweeper() -> None:
    pytest.importorskip(PLUGIN)
    sweeper = composed("hydra/sweeper=search", "hydra.sweeper.n_trials=3").hydra.sweeper
    chosen = (sweeper.direction, sweeper.n_trials, sweeper.n_jobs, sweeper.sampler.seed)
    assert chosen == ("maximize", 3, 1, 0)
    assert sweeper.max_failure_rate == 1.0


RANGES = ["kdci.N=choice(0,4)", "distill.optimizer.lr=tag(log, interval(0.01, 0.3))"]
SEARCH = ["--multirun", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", *RANGES]


def best(search: Finished) -> str:
    """What Optuna has found, as YAML."""
    (path,) = (search.outputs / "sweeps").glob("*/optimization_results.yaml")
    return path.read_text()


@pytest.mark.slow
@pytest.mark.xdist_group("sweep")
def test_a_search_ends_with_its_best_and_the_table_of_a_sweep(
    smoke: Smoke, tmp_path: Path
) -> None:
    pytest.importorskip(PLUGIN)
    assert smoke.default
    search = smoke.command(tmp_path, *SEARCH, "distill.held_out=0.2")
    assert search.exit_code == 1, search.stderr  # N=0 is refused, as in any sweep
    failed = re.search(r"4 points, (\d) failed", search.stdout)
    assert failed is not None
    assert int(failed[1]) == 4 - len(search.summaries) > 0
    agreements = [summary["held_out"]["agreement"] for summary in search.summaries]
    assert {summary["held_out"]["images"] for summary in search.summaries} == {51}
    assert f"best_value: {max(agreements)}" in best(search)
    assert "Traceback" not in search.stderr

    before = {path: path.read_bytes() for path in tmp_path.rglob("summary.json")}
    again = smoke.command(tmp_path, *SEARCH, "distill.held_out=0.2")
    assert {path: path.read_bytes() for path in tmp_path.rglob("summary.json")} == before
    assert best(again) == best(search)


@pytest.mark.slow
@pytest.mark.xdist_group("sweep")
def test_a_search_of_which_every_point_fails_says_so(smoke: Smoke, tmp_path: Path) -> None:
    pytest.importorskip(PLUGIN)
    bad = ["kdci.N=choice(0,-1)", "distill.held_out=0.2", "hydra.sweeper.n_trials=2"]
    search = smoke.command(tmp_path, "--multirun", "hydra/sweeper=optuna", *bad)
    assert search.exit_code == 1
    assert "2 points, 2 failed" in search.stdout
    assert search.stderr.splitlines()[-1] == (
        "Error: No point of the search has ended with a value; each has said why"
    )
    assert "Traceback" not in search.stderr
