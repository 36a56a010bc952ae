from pathlib import Path
from typing import Any

import pytest
import torch

import src.report.dashboard as dashboard
from src.common.errors import UserError
from src.report.dashboard import finish, log_summary, start_wandb
from src.report.grid import save_image_grid


class Recorder:
    """Stands in for a W&B run and keeps what it is told."""

    def __init__(self) -> None:
        self.summary: dict[str, Any] = {}
        self.logged: dict[str, Any] = {}
        self.exit_code: int | None = None

    def log(self, values: dict[str, Any]) -> None:
        self.logged |= values

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep W&B away from the user's account, settings and terminal."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")


def start(folder: Path, mode: Any, **options: Any) -> Any:
    return start_wandb("kdci", mode, "sweep", "dafl", {"seed": 0}, folder, ["tag"], **options)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "substitution.png"
    save_image_grid(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), path, columns=2)
    return path


def test_disabled_takes_everything_and_writes_nothing(
    tmp_path: Path, make_summary: Any, images: Path
) -> None:
    run = start(tmp_path / "run", "disabled")
    log_summary(run, make_summary(80.0), images)
    assert run.summary["acc1/last"] == 80.0
    finish(run)
    assert list((tmp_path / "run").iterdir()) == []


def test_offline_needs_no_account(tmp_path: Path, make_kdci: Any, images: Path) -> None:
    run = start(tmp_path / "run", "offline", run_id="c0ffee")
    assert run.id != "c0ffee"  # offline runs under one identity do not merge
    run.log({"student/acc1": 50.0, "student/epoch": 0})
    summary = make_kdci(81.0, dictionary={"prior": [0.5, 0.5], "inertia": [3.0, 2.0, 1.5]})
    log_summary(run, summary, images)
    assert run.summary["acc1/last"] == 81.0
    finish(run, exit_code=1)
    (offline,) = (tmp_path / "run/wandb").glob("offline-run-*")
    assert list(offline.glob("run-*.wandb"))
    media = {path.name.split("_")[0] for path in (offline / "files/media").rglob("*.*")}
    assert {"class", "prior", "inertia", "images"} <= media


def test_each_stage_counts_on_its_own_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defined: dict[str, str | None] = {}

    class Run:
        def define_metric(self, name: str, step_metric: str | None = None) -> None:
            defined[name] = step_metric

    monkeypatch.setattr("wandb.init", lambda **_: Run())
    start(tmp_path, "offline")
    assert defined["teacher/*"] == "teacher/epoch"
    assert defined["stage_a/*"] == "stage_a/round"
    assert defined["student/*"] == "student/epoch"
    assert defined.keys() >= {"teacher/epoch", "stage_a/round", "student/epoch"}


def test_online_goes_on_under_the_same_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Run:
        def define_metric(self, name: str, step_metric: str | None = None) -> None: ...

    def init(**options: Any) -> Run:
        asked.update(options)
        return Run()

    monkeypatch.setattr("wandb.init", init)
    start(tmp_path, "online", run_id="c0ffee", entity="team")
    assert (asked["id"], asked["resume"], asked["entity"]) == ("c0ffee", "allow", "team")
    assert (asked["project"], asked["group"], asked["tags"]) == ("kdci", "sweep", ["tag"])


def test_a_refusal_is_a_user_error_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def refuse(**_: Any) -> None:
        raise wandb.Error("no account.\nand much more")

    monkeypatch.setattr("wandb.init", refuse)
    with pytest.raises(UserError, match=r"no account; run `wandb login`, or set logger\.wandb"):
        start(tmp_path, "online")


def test_other_ranks_take_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_summary: Any
) -> None:
    monkeypatch.setattr(dashboard, "rank", lambda: 1)
    run = start(tmp_path / "run", "offline")
    assert run is None
    log_summary(run, make_summary(80.0), None)
    finish(run, exit_code=1)
    assert not (tmp_path / "run").exists()


def test_what_a_run_lacks_is_left_out(make_summary: Any) -> None:
    run: Any = Recorder()
    log_summary(run, make_summary(80.0, class_proportions=[]))
    assert run.logged == {}
    assert run.summary["seconds/total"] == 30.0


def test_charts_hold_the_shares_and_the_curve(make_kdci: Any) -> None:
    run: Any = Recorder()
    log_summary(run, make_kdci(80.0, dictionary={"prior": [0.2, 0.8], "inertia": [3.0, 1.5]}))
    tables = {key: chart.table.data for key, chart in run.logged.items()}
    assert tables == {
        "substitution/class_proportions": [["0", 0.25], ["1", 0.75]],
        "dictionary/prior": [["0", 0.2], ["1", 0.8]],
        "dictionary/inertia": [[0, 3.0], [1, 1.5]],
    }


def test_finish_passes_the_exit_code_on() -> None:
    run: Any = Recorder()
    finish(run, exit_code=1)
    assert run.exit_code == 1
