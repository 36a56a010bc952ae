from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.teacher.arrays import StoredArray, StoredType
from src.teacher.read import read


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        np.arange(4, dtype=">f4"),
        np.array([0.5, -1], dtype=np.float16),
        np.array(7),
        np.array([True, False]),
    ],
)
def test_numbers_are_read_as_numpy_reads_them(tmp_path: Path, array: Any) -> None:
    torch.save({"a": array}, tmp_path / "c.pt")
    tensor = read(tmp_path / "c.pt")["a"].tensor()
    assert tensor.shape == array.shape
    assert tensor.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("name", "shape", "raw"),
    [
        ("O", (1,), bytes(8)),  # bytes that would become a pointer
        ("f8,O", (1,), bytes(16)),
        ("f4", (2,), bytes(4)),
        ("f4", (2**40, 2**40), bytes(4)),
        ("f4", (1,), [1.0]),
        ("f4", "x", bytes(4)),
        ("nonsense", (1,), bytes(4)),
        ("U1", (1,), bytes(4)),
    ],
)
def test_what_is_no_array_of_numbers_is_none(name: str, shape: Any, raw: Any) -> None:
    stored = StoredArray()
    stored.__setstate__((1, shape, StoredType(name), False, raw))
    assert stored.tensor() is None


@pytest.mark.parametrize("state", [(), None, (1, 2), (1, (1,), "f4", False, bytes(4))])
def test_a_state_of_another_form_is_none(state: Any) -> None:
    stored = StoredArray()
    stored.__setstate__(state)
    assert stored.tensor() is None


def test_an_array_of_objects_is_never_built(tmp_path: Path) -> None:
    torch.save({"a": np.array([{"b": 1}], dtype=object)}, tmp_path / "c.pt")
    assert read(tmp_path / "c.pt")["a"].tensor() is None


def test_a_type_in_a_file_leaves_those_of_numpy_alone(tmp_path: Path) -> None:
    torch.save({"a": np.arange(4, dtype=">f8")}, tmp_path / "c.pt")
    read(tmp_path / "c.pt")
    assert np.dtype("f8").isnative
