import os
import threading
from collections import deque
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from src.common.errors import UserError
from src.common.states import read_state, save_state


def test_tensors_numbers_strings_lists_and_dicts_come_back(tmp_path: Path) -> None:
    state = {"a": torch.arange(3), "b": [1, 2.5, "c", None, True], "d": {"e": (1, 2)}}
    save_state(state, tmp_path / "state.pt")
    found = read_state(tmp_path / "state.pt")
    assert torch.equal(found.pop("a"), state.pop("a"))
    assert found == state


def test_a_state_is_written_where_names_are_not_utf_8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9t\xe9.pt"))
    save_state({"a": torch.ones(1)}, path)
    assert torch.equal(read_state(path)["a"], torch.ones(1))


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_a_sparse_tensor_comes_back(tmp_path: Path) -> None:
    value = torch.eye(3).to_sparse()
    save_state({"a": value}, tmp_path / "state.pt")
    assert torch.equal(read_state(tmp_path / "state.pt")["a"].to_dense(), torch.eye(3))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.float32(1.5), "scalar"),
        (Path("a"), "PosixPath"),
        (deque([1.5]), "deque"),
        (lambda: 0, "something else"),
        (threading.Lock(), "something else"),
        (reduce(lambda inner, _: [inner], range(5000), 0), "something nested too deeply"),
    ],
    ids=["numpy", "path", "deque", "lambda", "lock", "deep"],
)
def test_what_could_not_be_read_again_is_refused_when_it_is_written(
    value: Any, name: str, tmp_path: Path
) -> None:
    expected = rf"^Expected a state of tensors, .* but \S*{name}\S* is in one; let get_extra_st"
    with pytest.raises(UserError, match=expected) as caught:
        save_state({"recent": value}, tmp_path / "state.pt")
    assert "\n" not in str(caught.value)
