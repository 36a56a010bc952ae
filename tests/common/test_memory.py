import os
import shutil
import time
from pathlib import Path

import pytest

from src.common.memory import recall, remember, stamp


class Counted:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> str:
        self.times += 1
        return f"answer {self.times}"


@pytest.fixture
def compute() -> Counted:
    return Counted()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A folder and its file; the clock is an hour ahead, so that both have settled."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a").write_text("content")
    later = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr("src.common.memory.time.time_ns", lambda: later)
    return [folder, folder / "a"]


def ask(tmp_path: Path, sources: list[Path], compute: Counted) -> str:
    answer: str = remember(tmp_path / "m" / "memory.json", lambda: sources, compute)
    return answer


def test_an_answer_is_remembered(tmp_path: Path, sources: list[Path], compute: Counted) -> None:
    assert ask(tmp_path, sources, compute) == "answer 1"
    assert ask(tmp_path, sources, compute) == "answer 1"
    assert compute.times == 1


def touch(file: Path) -> None:
    os.utime(file)


def rewrite_in_place(file: Path) -> None:
    """Same size, same inode, and the old time of modification put back."""
    before = file.stat()
    file.write_text("CONTENT")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def replace(file: Path) -> None:
    """Another file of the same size and times of modification."""
    other = file.with_name("b")
    other.write_text("CONTENT")
    shutil.copystat(file, other)
    os.replace(other, file)


def add_a_file(file: Path) -> None:
    file.with_name("new").touch()


def grow(file: Path) -> None:
    file.write_text("longer content")


@pytest.mark.parametrize("change", [touch, rewrite_in_place, replace, add_a_file, grow, os.unlink])
def test_no_change_is_overlooked(
    tmp_path: Path, sources: list[Path], compute: Counted, change: object
) -> None:
    assert ask(tmp_path, sources, compute) == "answer 1"
    time.sleep(0.02)  # a tick of the clock of files
    change(sources[1])  # type: ignore[operator]
    assert ask(tmp_path, sources, compute) == "answer 2"


def test_what_has_just_changed_is_not_yet_remembered(tmp_path: Path, compute: Counted) -> None:
    (tmp_path / "a").write_text("content")
    ask(tmp_path, [tmp_path / "a"], compute)
    assert ask(tmp_path, [tmp_path / "a"], compute) == "answer 2"


def test_a_file_dated_in_the_future_is_remembered(
    tmp_path: Path, sources: list[Path], compute: Counted
) -> None:
    ahead = time.time() + 10**6  # as tar and cp -p keep it
    os.utime(sources[1], (ahead, ahead))
    assert ask(tmp_path, sources, compute) == "answer 1"
    assert ask(tmp_path, sources, compute) == "answer 1"


def test_what_changes_meanwhile_is_not_remembered(tmp_path: Path, sources: list[Path]) -> None:
    def compute() -> str:
        time.sleep(0.02)
        sources[1].write_text("changed while it was read")
        return "half old, half new"

    remember(tmp_path / "memory.json", lambda: sources, compute)
    assert recall(tmp_path / "memory.json") is None


@pytest.mark.parametrize("content", ["", "{}", '{"value": "forged", "rests_on": []}'])
def test_a_damaged_memory_is_none(
    tmp_path: Path, sources: list[Path], compute: Counted, content: str
) -> None:
    ask(tmp_path, sources, compute)
    (tmp_path / "m" / "memory.json").write_text(content)
    assert ask(tmp_path, sources, compute) == "answer 2"


def test_a_cache_that_cannot_be_written_costs_no_answer(
    tmp_path: Path, sources: list[Path], compute: Counted
) -> None:
    (tmp_path / "m").write_text("a file where the folder should be")
    assert ask(tmp_path, sources, compute) == "answer 1"


def test_nothing_has_no_stamp(tmp_path: Path) -> None:
    assert stamp(tmp_path / "nowhere") is None
    assert stamp(tmp_path) is not None
