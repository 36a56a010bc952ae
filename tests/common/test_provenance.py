from pathlib import Path

import pytest

from src.common import provenance
from src.common.provenance import source_hash


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small source tree in place of ours."""
    for name in ("network/a.py", "network/deep/b.py", "teacher/c.py", "teacher/d.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}")
    monkeypatch.setattr(provenance, "_SOURCE", tmp_path)
    return tmp_path


def test_the_order_of_the_parts_is_irrelevant(source: Path) -> None:
    assert source_hash(("network", "teacher")) == source_hash(["teacher", "network"])


@pytest.mark.parametrize("name", ["network/a.py", "network/deep/b.py", "network/new.py"])
def test_a_change_in_a_package_is_seen(source: Path, name: str) -> None:
    before, elsewhere = source_hash(("network",)), source_hash(("teacher",))
    (source / name).write_text("changed")
    assert source_hash(("network",)) != before
    assert source_hash(("teacher",)) == elsewhere


def test_a_renamed_file_is_a_change(source: Path) -> None:
    before = source_hash(("network",))
    (source / "network/a.py").rename(source / "network/z.py")
    assert source_hash(("network",)) != before


def test_a_single_file_stands_for_itself(source: Path) -> None:
    before = source_hash(("teacher/c.py",))
    (source / "teacher/d.py").write_text("changed")
    assert source_hash(("teacher/c.py",)) == before
    (source / "teacher/c.py").write_text("changed")
    assert source_hash(("teacher/c.py",)) != before


def test_compiled_files_do_not_count(source: Path) -> None:
    before = source_hash(("network",))
    (source / "network/__pycache__").mkdir()
    (source / "network/__pycache__/a.pyc").write_bytes(b"\0")
    assert source_hash(("network",)) == before


def test_a_part_that_does_not_exist_is_a_mistake(source: Path) -> None:
    with pytest.raises(FileNotFoundError):
        source_hash(("netwerk",))
