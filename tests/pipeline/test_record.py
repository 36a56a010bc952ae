"""What stands in a run's folder when W&B, which comes last, does not end well."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from src.common.errors import UserError
from src.common.signals import Interrupted
from src.pipeline import run
from src.report.summary import FILE_NAME, is_finished, read_summary, write_summary
from tests.report.conftest import make_summary as make_summary

WANDB: Any = SimpleNamespace(
    logger=SimpleNamespace(
        wandb=SimpleNamespace(project="p", mode="offline", tags=(), entity=None)
    ),
    force=False,
)


@pytest.mark.parametrize("error", [SIGTERMException(), Interrupted(15)])
def test_a_run_that_was_stopped_is_recorded_as_interrupted(
    tmp_path: Path, make_summary: Any, error: BaseException
) -> None:
    with (
        pytest.raises(type(error)),
        run._recorded(make_summary(status="running"), tmp_path),
    ):
        raise error
    assert read_summary(tmp_path / FILE_NAME)["status"] == "interrupted"


@pytest.mark.parametrize("error", [ConnectionError("gone"), Interrupted(15), UserError("no")])
def test_a_result_that_is_written_stands(
    tmp_path: Path, make_summary: Any, error: BaseException
) -> None:
    def work() -> None:
        with run._recorded(make_summary(status="running"), tmp_path):
            assert read_summary(tmp_path / FILE_NAME)["status"] == "running"
            write_summary(make_summary(81.0), tmp_path)
            raise error

    with pytest.raises(type(error)):
        work()
    assert is_finished(tmp_path)
    assert read_summary(tmp_path / FILE_NAME)["acc1"]["last"] == 81.0


def test_a_run_without_a_result_is_recorded_as_failed(tmp_path: Path, make_summary: Any) -> None:
    with (
        pytest.raises(UserError),
        run._recorded(make_summary(status="running"), tmp_path),
    ):
        raise UserError("no")
    assert read_summary(tmp_path / FILE_NAME)["status"] == "failed"


class Gone:
    """A W&B run that cannot be closed."""

    def finish(self, exit_code: int) -> None:
        raise ConnectionError("the service is gone")


def test_a_mirror_that_cannot_be_closed_costs_a_warning(
    tmp_path: Path,
    make_summary: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(run, "start_wandb", lambda *_, **__: Gone())
    with caplog.at_level(logging.WARNING), run._mirrored(WANDB, make_summary(), tmp_path):
        pass
    assert "no whole copy of this run" in caplog.text
    assert "ConnectionError: the service is gone" in caplog.text
    with (
        pytest.raises(UserError, match="of the run itself"),
        run._mirrored(WANDB, make_summary(), tmp_path),
    ):
        raise UserError("of the run itself")


def test_of_a_teacher_alone_nothing_goes_to_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(*_: Any) -> None:
        raise UserError("no")

    monkeypatch.setattr(run, "_begun", stop)
    with pytest.raises(UserError, match="no"):
        run.run_teacher(WANDB, tmp_path)
    assert "with task=teacher nothing goes to W&B" in caplog.text


@pytest.mark.parametrize(
    ("status", "is_damaged", "begins_anew"),
    [("finished", False, True), ("finished", True, True), ("interrupted", False, False)],
)
def test_a_result_that_is_made_again_begins_anew_in_wandb(
    tmp_path: Path, make_summary: Any, status: str, is_damaged: bool, begins_anew: bool
) -> None:
    summary = make_summary(status=status)
    write_summary(summary, tmp_path)
    if is_damaged:
        (tmp_path / FILE_NAME).write_text("{")
    live = tmp_path / "wandb" / f"run-20260101_000000-{summary['identity']['run']}"
    live.mkdir(parents=True)
    run._set_aside(tmp_path, summary["identity"]["run"])
    assert live.exists() != begins_anew
    assert (tmp_path / "summary.previous.json").exists() == (begins_anew and not is_damaged)
