"""States on disk, of which loading executes nothing."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch

from src.common.errors import UserError


def save_state(state: Any, path: Path) -> None:
    """Write a state, and make sure that it can be read again while it is still in memory.

    Raises:
        UserError: If it holds what :func:`read_state` refuses, as ``get_extra_state`` of somebody
            else's class may.
    """
    try:
        torch.save(state, path)
        _look_at(path)
    except (pickle.PickleError, AttributeError, TypeError, RecursionError) as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        is_deep = isinstance(error, RecursionError)
        other = "something nested too deeply" if is_deep else "something else"
        raise UserError(
            "Expected a state of tensors, numbers, strings, lists and dicts, but "
            f"{found[1] if found else other} is in one; let get_extra_state give such "
            "values, and set_extra_state make of them what they were"
        ) from error


def _look_at(path: Path) -> None:
    try:
        # What it holds, without the bytes of tensors; mapped, names outside UTF-8 fail.
        torch.load(path, map_location="meta", weights_only=True)
    except RuntimeError:  # of sparse and quantised tensors, which the meta device does not take
        read_state(path)


def read_state(path: Path) -> Any:
    """A state as it was written, in the host's memory."""
    return torch.load(path, map_location="cpu", weights_only=True)
