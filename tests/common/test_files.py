import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from src.common import files
from src.common.errors import UserError
from src.common.files import (
    atomic_folder,
    atomic_write,
    content_hash,
    lock,
    remove_leftovers,
    remove_spent_state,
    sha256_file,
    sha256_tensors,
)

HOLDER = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``tmp_path/thing``."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "thing.lock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_written_file_is_complete_and_alone(tmp_path):
    path = tmp_path / "new" / "folder" / "result.json"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".json"
        temporary.write_text("42")
        assert not path.exists()
    assert path.read_text() == "42"
    assert names(path.parent) == ["result.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")

    def interrupted():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_a_full_disk_is_found_while_the_half_file_fills_it(tmp_path, monkeypatch):
    path = tmp_path / "result.pt"

    def probe(folder):
        return OSError(errno.ENOSPC, "No space left") if names(folder) else None

    monkeypatch.setattr(files, "_probe", probe)

    def write():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("unexpected pos 64 vs 0")  # as torch says it

    with pytest.raises(UserError, match=r"result.pt' \(No space left\)"):
        write()
    assert names(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EIO])
def test_folders_may_be_of_a_kind_that_cannot_be_flushed(tmp_path, monkeypatch, number):
    fsync = os.fsync

    def refusing(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refusing)

    def write():
        with atomic_folder(tmp_path / "entry") as folder, atomic_write(folder / "in/a") as file:
            file.write_text("1")

    if number == errno.EIO:
        with pytest.raises(UserError, match="Input/output error"):
            write()
    else:
        write()
        assert (tmp_path / "entry/in/a").read_text() == "1"


def test_a_file_that_cannot_be_flushed_is_not_written(tmp_path, monkeypatch):
    def refusing(handle):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", refusing)
    with pytest.raises(UserError, match="Invalid argument"), atomic_write(tmp_path / "a") as file:
        file.write_text("1")
    assert names(tmp_path) == []


def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "cache" / "entry"
    with atomic_folder(path) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "a").write_text("1")
        assert not path.exists()
    assert (path / "inner" / "a").read_text() == "1"
    assert names(path.parent) == ["entry"]


def test_a_failed_folder_leaves_nothing(tmp_path):
    def full_disk():
        with atomic_folder(tmp_path / "entry") as temporary:
            (temporary / "a").write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        full_disk()
    assert names(tmp_path) == []


def test_a_folder_replaces_the_one_before(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "entry") as temporary:
            (temporary / content).write_text("")
    assert names(tmp_path / "entry") == ["new"]
    assert names(tmp_path) == ["entry"]


def test_leftovers_of_killed_writers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / ".123-0a1b2c3d-entry").mkdir()
    (tmp_path / ".124-0a1b2c3d-entry").write_text("")
    kept = ["entry", "entry.lock", ".125-0a1b2c3d-other", ".hidden-entry", ".tmpaB3xYz"]
    for name in kept:
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path, "entry")
    assert names(tmp_path) == sorted(kept)
    remove_leftovers(tmp_path)
    assert names(tmp_path) == sorted(set(kept) - {".125-0a1b2c3d-other", ".tmpaB3xYz"})


def test_leftovers_are_looked_for_where_nothing_was_written(tmp_path):
    remove_leftovers(tmp_path / "absent")
    assert names(tmp_path) == []


def test_a_spent_state_is_removed_unless_its_run_is_made_again(tmp_path, holder):
    state = tmp_path / "thing" / "state"
    state.mkdir(parents=True)
    remove_spent_state(tmp_path / "thing")
    assert state.exists()
    holder.kill()
    holder.wait()
    remove_spent_state(tmp_path / "thing")
    assert names(tmp_path / "thing") == []


def test_a_lock_held_elsewhere_is_refused_by_name(tmp_path, holder):
    with (
        pytest.raises(UserError, match="thing' to be free, but another process"),
        lock(tmp_path / "thing", wait=False),
    ):
        pass


def test_a_lock_is_free_after_its_holder_was_killed(tmp_path, holder):
    holder.kill()
    holder.wait()
    with lock(tmp_path / "thing", wait=False):
        pass


def test_a_waiting_lock_gets_its_turn(tmp_path, holder, caplog):
    holder.stdin.close()
    with lock(tmp_path / "thing"):
        assert holder.wait(timeout=5) == 0


def test_a_lock_can_be_taken_again(tmp_path):
    for _ in range(2):
        with lock(tmp_path / "new" / "thing", wait=False):
            pass


def test_the_hash_of_a_file_is_known(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(path) == expected


def test_the_hash_of_tensors_sees_values_shape_type_and_order():
    x = torch.arange(6.0).reshape(2, 3)
    others = [x + 1, x.reshape(3, 2), x.double(), x.bfloat16(), x.T, torch.empty(0), x.int()]
    hashes = {sha256_tensors(t) for t in [x, *others]}
    assert len(hashes) == 8
    assert sha256_tensors(x, x + 1) != sha256_tensors(x + 1, x)


def test_the_hash_of_tensors_ignores_memory_layout():
    x = torch.arange(6).reshape(2, 3)
    assert sha256_tensors(x.T) == sha256_tensors(x.T.contiguous())


def test_the_content_hash_ignores_key_order_only():
    assert content_hash({"a": 1, "b": [2]}) == content_hash({"b": [2], "a": 1})
    assert content_hash([1, 2]) != content_hash([2, 1])


def test_the_content_hash_refuses_what_has_no_content():
    with pytest.raises(TypeError):
        content_hash({"path": Path(os.curdir)})
