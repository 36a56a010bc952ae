from pathlib import Path
from typing import Any

import pytest
import torch

import src.report.dashboard as dashboard
from src.common.errors import UserError
from src.report.dashboard import (
    finish,
    log_points,
    log_summary,
    mode_or_default,
    start_afterwards,
    start_wandb,
    tolerated,
)
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
def _isolated(isolated_wandb: None) -> None: ...


@pytest.fixture
def beginning(make_summary: Any) -> Any:
    """A summary with the options of W&B, as those of runs that are logged live have."""

    def make(**changes: Any) -> Any:
        return make_summary(config={"logger": {"wandb": {"entity": None}}}, **changes)

    return make


@pytest.fixture
def start(beginning: Any) -> Any:
    def start(folder: Path, mode: Any, **options: Any) -> Any:
        summary = beginning(sweep="5eed5")
        return start_wandb(summary, folder, "kdci", mode, ["tag"], **options)

    return start


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "substitution.png"
    save_image_grid(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), path, columns=2)
    return path


def test_disabled_takes_everything_and_writes_nothing(
    tmp_path: Path, start: Any, make_summary: Any, images: Path
) -> None:
    run = start(tmp_path / "run", "disabled")
    log_summary(run, make_summary(80.0), ["cat", "dog"], images)
    assert run.summary["acc1/last"] == 80.0
    finish(run)
    assert list((tmp_path / "run").iterdir()) == []


def test_offline_needs_no_account(
    tmp_path: Path, start: Any, make_kdci: Any, images: Path
) -> None:
    run = start(tmp_path / "run", "offline")
    assert run.id != "c0ffee"  # offline runs under one identity do not merge
    run.log({"student/acc1": 50.0, "student/epoch": 0})
    summary = make_kdci(81.0, dictionary={"prior": [0.5, 0.5], "inertia": [3.0, 2.0, 1.5]})
    log_summary(run, summary, ["cat", "dog"], images)
    assert run.summary["acc1/last"] == 81.0
    finish(run, exit_code=1)
    (offline,) = (tmp_path / "run/wandb").glob("offline-run-*")
    assert list(offline.glob("run-*.wandb"))
    media = {path.name.split("_")[0] for path in (offline / "files/media").rglob("*.*")}
    assert {"class", "prior", "inertia", "images"} <= media


def test_each_stage_counts_on_its_own_step(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
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


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What W&B was asked to start."""
    found: dict[str, Any] = {}

    class Run:
        offline = False

        def define_metric(self, name: str, step_metric: str | None = None) -> None: ...

    def init(**options: Any) -> Run:
        found.update(options)
        return Run()

    monkeypatch.setattr("wandb.init", init)
    return found


def test_online_goes_on_under_the_same_identity(
    tmp_path: Path, start: Any, asked: dict[str, Any]
) -> None:
    folder = tmp_path / "dafl/c0ffee"
    (folder / "wandb/run-20260101_000000-c0ffee").mkdir(parents=True)
    start(folder, "online", entity="team")
    assert (asked["id"], asked["resume"], asked["entity"]) == ("c0ffee", "allow", "team")
    assert (asked["project"], asked["tags"]) == ("kdci", ["tag"])
    start(folder, "online", goes_on=False)
    assert (asked["id"], asked["resume"]) == (None, None)


def test_in_a_folder_without_an_attempt_a_run_begins_anew(
    tmp_path: Path, start: Any, asked: dict[str, Any]
) -> None:
    for other in ("offline-run-20260101_000000-c0ffee", "run-20260101_000000-mirrored"):
        (tmp_path / "wandb" / other).mkdir(parents=True)
    start(tmp_path, "online")
    assert (asked["id"], asked["resume"]) == ("c0ffee", None)


@pytest.mark.parametrize(
    ("given", "variable", "taken"),
    [(None, "team", "team"), ("they", "team", "they"), (None, "", None)],
)
def test_the_summary_is_told_which_entity_was_taken(
    tmp_path: Path,
    asked: dict[str, Any],
    beginning: Any,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    variable: str,
    taken: str | None,
) -> None:
    monkeypatch.setenv("WANDB_ENTITY", variable)
    summary = beginning()
    start_wandb(summary, tmp_path, "kdci", "online", entity=given)
    assert asked["entity"] == summary["config"]["logger"]["wandb"]["entity"] == taken


@pytest.mark.parametrize(
    ("given", "variable", "taken"),
    [(None, "offline", "offline"), ("online", "offline", "online"), (None, "", "online")],
)
def test_the_summary_is_told_which_mode_was_taken(
    tmp_path: Path,
    asked: dict[str, Any],
    beginning: Any,
    monkeypatch: pytest.MonkeyPatch,
    given: Any,
    variable: str,
    taken: str,
) -> None:
    monkeypatch.setenv("WANDB_MODE", variable)
    summary = beginning()
    start_wandb(summary, tmp_path, "kdci", given)
    assert asked["mode"] == summary["config"]["logger"]["wandb"]["mode"] == taken
    assert asked["id"] == ("c0ffee" if taken == "online" else None)


def test_a_mode_that_there_is_not(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "off")
    expected = "Expected WANDB_MODE to be online, offline or disabled, but got 'off'"
    with pytest.raises(UserError, match=expected):
        start(tmp_path, None)


@pytest.mark.parametrize(("named", "taken"), [("dryrun", "offline"), ("run", "online")])
def test_modes_go_by_their_old_names_too(
    monkeypatch: pytest.MonkeyPatch, named: str, taken: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", named)
    assert mode_or_default(None, ("online", "offline")) == taken


def test_a_run_is_called_by_its_choices_and_grouped_by_its_sweep(
    tmp_path: Path, asked: dict[str, Any], beginning: Any
) -> None:
    folder = tmp_path / "digits_dafl_none/c0ffee"
    start_wandb(beginning(sweep="5eed5"), folder, "kdci", "offline")
    assert (asked["name"], asked["group"]) == ("digits_dafl_none_c0ffee", "5eed5")
    names = {"dataset": "digits", "baseline": "dafl"}
    taken = {"wandb": {"mode": "offline", "entity": None}}
    assert asked["config"] == {**beginning()["config"], "logger": taken, "names": names}
    for alone in (beginning(), beginning(sweep=None)):
        start_wandb(alone, folder, "kdci", "offline")
        assert asked["group"] == "digits_dafl_none"


def test_afterwards_a_run_is_replaced_and_tells_nothing_of_this_machine(
    tmp_path: Path, asked: dict[str, Any], make_summary: Any
) -> None:
    start_afterwards(make_summary(host="there"), tmp_path, "kdci", "offline", "1d")
    assert asked["id"] == "1d"
    assert "resume" not in asked
    settings = asked["settings"]
    assert (settings.host, settings.console) == ("there", "off")
    assert settings.x_disable_stats
    assert settings.disable_git


def test_what_was_logged_has_the_names_of_live_logging() -> None:
    run: Any = Recorder()
    log_points(run, [{"student/epoch": 2.0, "student/acc": 50.0, "epoch": 1, "step": 9}])
    assert run.logged == {
        "student/epoch": 2.0,
        "student/acc": 50.0,
        "epoch": 1,
        "trainer/global_step": 9,
    }


def test_a_refusal_is_a_user_error_with_the_way_out(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch, make_summary: Any
) -> None:
    import wandb

    def refuse(**_: Any) -> None:
        raise wandb.Error("no account.\nand much more")

    monkeypatch.setattr("wandb.init", refuse)
    with pytest.raises(UserError, match=r"no account; run `wandb login`, or set logger\.wandb"):
        start(tmp_path, "online")
    with pytest.raises(UserError, match=r"no account; run `wandb login`, or give --wandb-mode"):
        start_afterwards(make_summary(), tmp_path, "kdci", "online", "1d")


def test_other_ranks_take_no_part(
    tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch, make_summary: Any
) -> None:
    monkeypatch.setattr(dashboard, "rank", lambda: 1)
    run = start(tmp_path / "run", "offline")
    assert run is None
    log_summary(run, make_summary(80.0), [], None)
    finish(run, exit_code=1)
    assert not (tmp_path / "run").exists()


def test_what_a_run_lacks_is_left_out(make_summary: Any) -> None:
    run: Any = Recorder()
    log_summary(run, make_summary(80.0, class_proportions=[]), ["cat", "dog"])
    assert run.logged == {}
    assert run.summary["seconds/total"] == 30.0


def test_charts_hold_the_shares_and_the_curve(make_kdci: Any) -> None:
    run: Any = Recorder()
    summary = make_kdci(80.0, dictionary={"prior": [0.2, 0.8], "inertia": [3.0, 1.5]})
    log_summary(run, summary, ["cat", "dog"])
    tables = {key: chart.table.data for key, chart in run.logged.items()}
    assert tables == {
        "substitution/class_proportions": [["cat", 0.25], ["dog", 0.75]],
        "dictionary/prior": [["0", 0.2], ["1", 0.8]],
        "dictionary/inertia": [[0, 3.0], [1, 1.5]],
    }


def test_the_summary_says_what_a_run_comes_of(make_summary: Any) -> None:
    run: Any = Recorder()
    log_summary(run, make_summary(80.0, git_revision="abc-dirty"), ["cat", "dog"])
    assert run.summary["acc1/teacher"] == 97.25
    assert run.summary["git_revision"] == "abc-dirty"
    assert run.summary["fingerprint/dataset"] == "d1" * 16
    assert run.summary["classes"] == ["cat", "dog"]


def test_classes_without_names_are_numbers(make_summary: Any) -> None:
    run: Any = Recorder()
    log_summary(run, make_summary(80.0), [])
    chart = run.logged["substitution/class_proportions"]
    assert chart.table.data == [["0", 0.25], ["1", 0.75]]


def test_that_there_is_no_whole_copy_is_said_once_of_each_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs: list[Any] = [Recorder(), Recorder()]
    for run in (*runs, *runs):
        with tolerated(run):
            raise ConnectionResetError("gone")
    assert caplog.text.count("ConnectionResetError: gone") == len(caplog.records) == 2


def test_a_process_that_is_gone_is_not_waited_for_at_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        torn.append(True)
        raise ConnectionResetError("gone")

    torn: list[bool] = []
    run: Any = Recorder()
    monkeypatch.setattr(run, "finish", lost)
    monkeypatch.setattr("wandb.teardown", lost)
    with pytest.raises(ConnectionResetError, match="gone"):
        finish(run)
    assert len(torn) == 2


def test_finish_passes_the_exit_code_on() -> None:
    run: Any = Recorder()
    finish(run, exit_code=1)
    assert run.exit_code == 1
