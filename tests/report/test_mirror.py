import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from src.common.errors import UserError
from src.common.files import lock
from src.common.sealed import digest_file, digests, write_sealed
from src.report import mirror as module
from src.report.__main__ import main
from src.report.dashboard import DashboardError
from src.report.mirror import Mirrored, Target, mirror, target
from src.report.summary import read_summary, write_summary
from tests.report.offline import read_offline

OFFLINE = Target("kdci", "offline", None)
FILES = {"card": "student.json", "images": "substitution.png"}
METRICS = {
    "teacher": "epoch,step,teacher/acc,teacher/epoch\n0,21,54.5,\n0,21,,1.0\n",
    "stage_a": "epoch,stage_a/round,step\n0,2.0,1\n",
    "stage_b": "epoch,step,student/acc,student/epoch\n0,2,10.0,1.0\n1,5,20.0,2.0\n",
    "stage_b.1": "epoch,step,student/acc,student/epoch\n0,2,21.0,2.0\n1,5,30.0,3.0\n",
}


class FakeRun:
    """Stands in for a W&B run and keeps what it is told."""

    offline = True

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.summary: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []
        self.exit_code: int | None = None

    def define_metric(self, name: str, step_metric: str | None = None) -> None: ...

    def log(self, values: dict[str, Any]) -> None:
        self.rows.append(values)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, isolated_wandb: None) -> list[FakeRun]:
    """The runs that W&B was asked to start."""
    found: list[FakeRun] = []

    def init(**options: Any) -> FakeRun:
        found.append(FakeRun(options))
        return found[-1]

    monkeypatch.setattr("wandb.init", init)
    return found


@pytest.fixture
def make_run(tmp_path: Path, make_summary: Any) -> Callable[..., Path]:
    """The folder of a finished run; keyword arguments change its summary."""

    def make(name: str = "c0ffee", **changes: Any) -> Path:
        folder = tmp_path / "outputs/digits_dafl_none" / name
        for stage, text in METRICS.items():
            (folder / "metrics" / stage).mkdir(parents=True)
            (folder / "metrics" / stage / "metrics.csv").write_text(text)
        write_sealed(folder / "student.json", {"class_names": ["cat", "dog"]})
        Image.new("RGB", (8, 8)).save(folder / "substitution.png")
        checksums = digests(folder, FILES.values())
        summary = make_summary(**({"files": FILES, "checksums": checksums} | changes))
        summary["identity"]["run"] = name
        write_summary(summary, folder)
        return folder

    return make


def mirrored(*paths: Path, to: Target = OFFLINE) -> Mirrored:
    result = mirror(paths, to, lambda folder: None)
    there = sorted(Path(summary["folder"]) for summary in result.there)
    assert there == sorted([*result.now, *result.before, *result.live])
    return result


def rewritten(folder: Path, change: Callable[[Any], None]) -> None:
    summary = read_summary(folder / "summary.json")
    change(summary)
    write_summary(summary, folder)


def test_a_run_is_mirrored_as_it_was_logged(
    started: list[FakeRun], make_run: Callable[..., Path]
) -> None:
    folder = make_run()
    summary = read_summary(folder / "summary.json")
    assert mirrored(folder.parent) == Mirrored([folder], [], [], [], [], [summary])
    (run,) = started
    assert run.options["config"] == {
        "seed": 0,
        "student": {"lr": 0.1},
        "kdci": {"name": "none"},
        "names": {"dataset": "digits", "baseline": "dafl"},
    }
    assert run.options["group"] == "digits_dafl_none"
    assert run.options["name"] == "digits_dafl_none_c0ffee"
    *points, media = run.rows
    assert points == [
        {"epoch": 0, "trainer/global_step": 21, "teacher/acc": 54.5, "teacher/epoch": 1.0},
        {"epoch": 0, "trainer/global_step": 1, "stage_a/round": 2.0},
        {"epoch": 0, "trainer/global_step": 2, "student/acc": 10.0, "student/epoch": 1.0},
        {"epoch": 0, "trainer/global_step": 2, "student/acc": 21.0, "student/epoch": 2.0},
        {"epoch": 1, "trainer/global_step": 5, "student/acc": 30.0, "student/epoch": 3.0},
    ]
    assert media.keys() == {"substitution/class_proportions", "substitution/images"}
    assert run.summary["classes"] == ["cat", "dog"]
    assert run.exit_code == 0


def test_once(started: list[FakeRun], make_run: Callable[..., Path]) -> None:
    folder = make_run()
    mirrored(folder)
    assert mirrored(folder).before == [folder]
    assert mirrored(folder, to=OFFLINE._replace(project="other")).now == [folder]
    assert mirrored(folder, to=OFFLINE._replace(entity="team")).now == [folder]
    assert mirrored(folder).before == [folder]
    names = [run.options["id"] for run in started]
    assert len(names) == len(set(names)) == 3


def test_a_result_that_was_made_again_is_mirrored_again_in_its_place(
    started: list[FakeRun], make_run: Callable[..., Path]
) -> None:
    folder = make_run()
    mirrored(folder)
    rewritten(folder, lambda summary: summary["acc1"].update(last=81.0))
    assert mirrored(folder).now == [folder]
    first, second = started
    assert first.options["id"] == second.options["id"]
    assert second.summary["acc1/last"] == 81.0


def test_a_mirror_that_was_broken_off_is_replaced(
    started: list[FakeRun], make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run()
    name = OFFLINE.name(read_summary(folder / "summary.json"))
    broken = folder / "wandb" / f"offline-run-20260101_000000-{name}"
    other = folder / "wandb" / "offline-run-20260101_000000-other"
    for left in (broken, other):
        left.mkdir(parents=True)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "log_summary", stop)
        with pytest.raises(KeyboardInterrupt):
            mirrored(folder)
    assert started[0].exit_code == 1
    assert mirrored(folder).now == [folder]
    assert started[0].options["id"] == started[1].options["id"] == name
    assert [path.exists() for path in (broken, other)] == [False, True]


def test_what_is_offline_and_not_sent_yet_outlives_a_mirror_that_does_not_start(
    started: list[FakeRun], make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run()
    name = OFFLINE.name(read_summary(folder / "summary.json"))
    whole = folder / "wandb" / f"offline-run-20260101_000000-{name}"
    broken = folder / "wandb" / f"run-20260101_000000-{name}"
    for left in (whole, broken):
        left.mkdir(parents=True)

    def refuse(*_: Any) -> None:
        raise DashboardError("no account")

    monkeypatch.setattr(module, "start_afterwards", refuse)
    with pytest.raises(DashboardError):
        mirrored(folder, to=OFFLINE._replace(mode="online"))
    assert [path.exists() for path in (whole, broken)] == [True, False]


def test_a_run_that_was_logged_live_is_not_doubled(
    started: list[FakeRun], make_run: Callable[..., Path]
) -> None:
    def live(mode: str, entity: str | None = None) -> dict[str, Any]:
        return {"logger": {"wandb": {"project": "kdci", "mode": mode, "entity": entity}}}

    folder = make_run(config=live("online"))
    unlogged = make_run("disabled", config=live("disabled"))
    theirs = make_run("theirs", config=live("online", "they"))
    result = mirrored(folder.parent)
    assert (result.live, result.now) == ([folder], [unlogged, theirs])
    result = mirrored(folder.parent, to=OFFLINE._replace(entity="they"))
    assert (result.live, result.now) == ([theirs], [folder, unlogged])
    assert mirrored(folder, to=OFFLINE._replace(project="other")).now == [folder]


def test_only_finished_runs(
    started: list[FakeRun], make_run: Callable[..., Path], make_summary: Any
) -> None:
    folder = make_run()
    for status in ("failed", "interrupted", "running"):
        (folder.parent / status).mkdir()
        write_summary(make_summary(status=status), folder.parent / status)
    result = mirrored(folder.parent)
    assert (result.now, len(result.unfinished)) == ([folder], 3)
    with pytest.raises(UserError, match=r"at least one finished run below '.*failed'"):
        mirrored(folder.parent / "failed")


def _outside(folder: Path) -> None:
    (folder.parent / "secret.png").write_bytes((folder / "substitution.png").read_bytes())
    rewritten(folder, lambda summary: summary["files"].update(images="../secret.png"))


def _link(folder: Path) -> None:
    _outside(folder)
    (folder / "substitution.png").unlink()
    (folder / "substitution.png").symlink_to("../secret.png")
    rewritten(folder, lambda summary: summary["files"].update(images="substitution.png"))


def _metrics_elsewhere(folder: Path) -> None:
    os.rename(folder / "metrics", folder.parent / "metrics")
    (folder / "metrics").symlink_to("../metrics")


def _no_picture(folder: Path) -> None:
    (folder / "substitution.png").write_text("no picture")
    digest = digest_file(folder / "substitution.png")
    rewritten(folder, lambda summary: summary["checksums"].update({"substitution.png": digest}))


def _changed(**values: Any) -> Callable[[Path], None]:
    return lambda folder: rewritten(folder, lambda summary: summary.update(values))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "metrics/stage_b/metrics.csv").write_text("a\nb\n"), "line 2"),
        (lambda folder: (folder / "student.json").write_text("{}"), "student.json"),
        (lambda folder: (folder / "student.json").unlink(), "is missing"),
        (lambda folder: (folder / "substitution.png").write_text("x"), "checksum differs"),
        (lambda folder: (folder / "summary.json").write_text("{"), "cannot be read"),
        (_no_picture, "is no picture"),
        (_outside, "leads out of the run's folder"),
        (_link, "leads out of the run's folder"),
        (_metrics_elsewhere, "leads out of the run's folder"),
        (lambda folder: (folder / "wandb").symlink_to(".."), "leads out of the run's folder"),
        (_changed(class_proportions=[0.5, 0.25, 0.25]), "2 class names, but 3 shares"),
        (_changed(class_proportions=["<script>"]), "other than numbers"),
        (_changed(dictionary=[1]), "no dictionary"),
        (_changed(config={"seed": "wandb-artifact://a/b/c:v0"}), "artifact of W&B in config.seed"),
        (
            _changed(config={"seed": {"_type": "artifactVersion"}}),
            "artifact of W&B in config.seed",
        ),
    ],
)
def test_what_is_damaged_or_hostile_is_named_and_left_out(
    started: list[FakeRun], make_run: Callable[..., Path], damage: Any, said: str
) -> None:
    bad, good = make_run("bad"), make_run("good")
    damage(bad)
    result = mirrored(bad.parent)
    assert result.now == [good]
    (line,) = result.refused
    assert str(bad) in line
    assert said in line
    assert "\n" not in line
    assert [run.options["id"] for run in started] == [
        OFFLINE.name(read_summary(good / "summary.json"))
    ]


def test_a_run_that_is_in_use_or_read_only_is_left_out(
    started: list[FakeRun], make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run()
    with lock(folder):
        (line,) = mirrored(folder).refused
    assert "another process is using it" in line
    monkeypatch.setattr("os.access", lambda *_: False)
    (line,) = mirrored(folder).refused
    assert f"'{folder}' is read-only" in line
    assert started == []


def test_without_an_account_it_stops_at_once(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, isolated_wandb: None
) -> None:
    import wandb

    def refuse(**_: Any) -> None:
        raise wandb.Error("No API key configured.")

    monkeypatch.setattr("wandb.init", refuse)
    folders = [make_run("a"), make_run("b")]
    with pytest.raises(DashboardError, match="or give --wandb-mode offline"):
        mirrored(*folders, to=OFFLINE._replace(mode="online"))
    assert not (folders[0] / "mirrored.json").exists()


def test_where_wandb_dies_it_stops_at_once(
    started: list[FakeRun], make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise ConnectionResetError("Connection lost")

    monkeypatch.setattr(FakeRun, "log", die)
    folder = make_run()
    with pytest.raises(DashboardError, match=r"stopped at '.*' \(Connection lost\); the same"):
        mirrored(folder)
    assert not (folder / "mirrored.json").exists()


def test_no_account_chosen_at_the_prompt_is_none(
    started: list[FakeRun], make_run: Callable[..., Path]
) -> None:
    with pytest.raises(DashboardError, match="Expected an account"):
        mirrored(make_run(), to=OFFLINE._replace(mode="online"))
    assert started[0].exit_code == 1


def test_a_record_that_is_damaged_or_of_another_form_does_not_count(
    started: list[FakeRun], make_run: Callable[..., Path]
) -> None:
    folder = make_run()
    of = digest_file(folder / "summary.json")
    for content in ({"of": of, "mirrors": 3}, {"of": of}, {"of": "other", "mirrors": []}):
        write_sealed(folder / "mirrored.json", content)
        assert mirrored(folder).now == [folder]
    (folder / "mirrored.json").write_text("{")
    assert mirrored(folder).now == [folder]
    assert mirrored(folder).before == [folder]


@pytest.mark.parametrize("project", ["", " ", "team/kdci", "a:b", "a\\b", "50%", "x" * 129])
def test_a_project_that_wandb_would_refuse(project: str) -> None:
    with pytest.raises(UserError, match="Expected --wandb with the name of a project"):
        target(project, "offline")


def test_what_is_not_said_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert target("kdci", None) == Target("kdci", "online", "team")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert target("kdci", None).mode == "offline"
    assert target("kdci", "online").mode == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(UserError, match="Expected WANDB_MODE to be online or offline"):
        target("kdci", None)


def test_the_command_says_what_was_done(
    started: list[FakeRun], make_run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = make_run("good"), make_run("bad")
    (bad / "student.json").unlink()
    command = [str(good.parent), "--wandb", "kdci", "--wandb-mode", "offline"]
    assert main(command) == 2
    captured = capsys.readouterr()
    counts = "0 before, 0 logged while they ran, 0 not finished"
    assert captured.out == f"Mirrored '{good}'\nkdci, offline: 1 mirrored, {counts}\n"
    assert captured.err.startswith("Error: Not mirrored: '")
    assert captured.err.count("\n") == 1
    assert main([str(good), *command[1:]]) == 0
    assert "0 mirrored, 1 before" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["--wandb", ""],
        ["--wandb", "kdci", "--experiment", "ablation"],
        ["--wandb", "kdci", "--csv", "x"],
        ["--wandb", "kdci", "--discard-failed"],
        ["--wandb-mode", "offline"],
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Error: Expected --")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_an_offline_run_holds_it_all(isolated_wandb: None, make_run: Callable[..., Path]) -> None:
    folder = make_run(host="there", git_revision="abc")
    mirrored(folder)
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    run = read_offline(path)
    assert (run.record.project, run.record.run_group) == ("kdci", "digits_dafl_none")
    assert (run.record.host, run.record.git.commit, run.exit_code) == ("there", "", 0)
    assert run.config["student"] == {"lr": 0.1}
    assert run.steps["student/*"] == "student/epoch"
    curve = [(row.get("student/epoch"), row.get("student/acc")) for row in run.history]
    assert curve == [(None, None), (None, None), (1, 10), (2, 21), (3, 30), (None, None)]
    assert run.history[-1]["substitution/images._type"] == "image-file"
    expected = {"acc1/last": 80.0, "acc1/teacher": 97.25, "git_revision": "abc"}
    assert run.summary.items() >= expected.items()
    (table,) = path.parent.rglob("*.table.json")
    assert json.loads(table.read_text())["data"] == [["cat", 0.25], ["dog", 0.75]]
