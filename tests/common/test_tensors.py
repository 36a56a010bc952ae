import errno
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from src.common import tensors
from src.common.tensors import save_tensors


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_can_be_read_by_whom_the_umask_says(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "tensors.safetensors"
    for _ in range(2):  # a file that is there stays as readable as it was
        save_tensors({"x": torch.arange(3)}, path)
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    save_tensors({"x": torch.arange(3)}, path, {"of": "a run"})
    assert load_file(path)["x"].tolist() == [0, 1, 2]
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"of": "a run"}


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may have more than 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_does_not_take_it_is_told_as_by_any_writer(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    with pytest.raises(OSError, match=path.name) as caught:
        save_tensors({"x": torch.zeros(2**20)}, path)
    assert caught.value.errno == errno.EFBIG


def test_tensors_that_cannot_be_saved_are_no_matter_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any) -> None:
        raise SafetensorError("no such dtype")

    monkeypatch.setattr(tensors, "save_file", refusing)
    with pytest.raises(SafetensorError, match="no such dtype"):
        save_tensors({"x": torch.zeros(1)}, tmp_path / "x")
