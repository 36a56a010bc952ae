import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

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
