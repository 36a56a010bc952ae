import logging
import re
from pathlib import Path

import pytest

from src.common.errors import UserError
from src.pipeline import log
from src.pipeline.log import written_down

_log = logging.getLogger("src.somewhere")
LINE = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d{4} "


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")


def lines(folder: Path) -> list[str]:
    """What was said, without date and time, which every line must have."""
    found = (folder / "run.log").read_text().splitlines()
    assert all(re.match(LINE, line) for line in found)
    return [re.sub(LINE, "", line) for line in found]


def test_what_is_logged_is_appended_attempt_after_attempt(tmp_path: Path) -> None:
    def fail() -> None:
        with written_down(tmp_path / "run", "kdci seed=1"):
            _log.info("one")
            raise UserError("no\nsuch file")

    with pytest.raises(UserError, match="such file"):
        fail()
    with written_down(tmp_path / "run", "kdci seed=1"):
        _log.warning("two of %d", 2)
    assert lines(tmp_path / "run") == [
        "INFO Command: kdci seed=1",
        "INFO one",
        "ERROR Error: no such file",
        "INFO Command: kdci seed=1",
        "WARNING two of 2",
        "INFO Finished",
    ]


def test_every_run_has_its_own_and_none_stays_open(tmp_path: Path) -> None:
    before = list(logging.getLogger().handlers)
    for name in ("a", "b"):
        with written_down(tmp_path / name):
            _log.info("of %s", name)
    _log.info("of neither")
    assert lines(tmp_path / "a") == ["INFO of a", "INFO Finished"]
    assert lines(tmp_path / "b") == ["INFO of b", "INFO Finished"]
    assert logging.getLogger().handlers == before


def test_other_ranks_write_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "rank", lambda: 1)
    with written_down(tmp_path, "kdci"):
        _log.info("one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_full_disk_costs_lines_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.log").symlink_to("/dev/full")
    with written_down(tmp_path, "kdci"):
        _log.info("one")
    assert "Logging error" not in capsys.readouterr().err
