"""Load a classifier's weights from anywhere, without ever executing what the file says."""

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar as numpy_scalar
from numpy.dtypes import Float32DType, Float64DType, Int32DType, Int64DType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from src.common.errors import UserError
from src.common.files import atomic_write
from src.common.sealed import digests, read_own, verify, write_sealed
from src.network.classifier import Classifier

# A published checkpoint may carry its accuracy as a NumPy scalar; nothing else is allowed.
_NUMPY_SCALARS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    numpy_scalar,
    np.dtype,
    Float32DType,
    Float64DType,
    Int32DType,
    Int64DType,
]
_WEIGHTS, _CARD = "teacher.safetensors", "teacher.json"
_FORMATS = "safetensors, or a torch file with a state dict, bare or under the key 'state_dict'"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Weights of a checkpoint: safetensors, a bare state dict, or one under ``state_dict``.

    Prefixes ``module.`` left by (Distributed)DataParallel are removed.

    Raises:
        UserError: If the file is missing, damaged, holds no state dict, or is a pickle that
            would execute code.
    """
    if not path.is_file():
        raise UserError(f"Cannot find the checkpoint '{path}'; expected {_FORMATS}")
    stored = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]
    named = isinstance(stored, dict) and all(isinstance(key, str) for key in stored)
    if not named or not stored or not all(isinstance(v, Tensor) for v in stored.values()):
        found = type(stored).__name__
        raise UserError(f"Expected the checkpoint '{path}' to be {_FORMATS}, but found a {found}")
    return {key.removeprefix("module."): value for key, value in stored.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"Cannot read the checkpoint '{path}': the file is damaged ({error}); "
            "download or write it again"
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch wonders aloud about files of another kind
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not re.search("GLOBAL|Can only", str(error)):
            raise _damaged(path) from error
        raise UserError(
            f"Refused the checkpoint '{path}': loading it could execute code, since it holds more "
            "than tensors. Expected a state dict: save it with "
            "torch.save(model.state_dict(), path) where you trust the file"
        ) from error
    except Exception as error:  # garbage can make the unpickler fail in any way
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(
        f"Cannot read the checkpoint '{path}': the file is truncated or no torch file; "
        f"expected {_FORMATS}"
    )


def load_into(network: Classifier, path: Path) -> None:
    """Load a checkpoint strictly into ``network``.

    Raises:
        UserError: As :func:`read_state_dict`, and if the weights are of another architecture or
            class count, or not finite.
    """
    state = read_state_dict(path)
    expected = network.state_dict()
    missing, surplus = expected.keys() - state.keys(), state.keys() - expected.keys()
    name = type(network).__name__
    if missing or surplus:
        raise UserError(
            f"Expected the checkpoint '{path}' to be of a {name} with {len(expected)} entries, "
            f"but {len(missing)} are missing and {len(surplus)} are foreign (first: "
            f"'{min(missing or surplus)}'); choose the matching teacher=..."
        )
    head = f"{network.head_name}.weight"
    if state[head].shape[0] != expected[head].shape[0]:
        raise UserError(
            f"Expected the checkpoint '{path}' to have {expected[head].shape[0]} classes, but it "
            f"has {state[head].shape[0]}; choose the matching dataset=..."
        )
    for key, value in expected.items():
        if state[key].shape != value.shape:
            raise UserError(
                f"Expected '{key}' of shape {tuple(value.shape)} in the checkpoint '{path}', but "
                f"got {tuple(state[key].shape)}; choose the matching teacher=..."
            )
        if not torch.isfinite(state[key]).all():
            raise UserError(f"Expected finite weights, but '{key}' in '{path}' holds NaN or inf")
    network.load_state_dict(state)


def save_trained(network: Classifier, folder: Path, acc1: float, name: str) -> None:
    """Write a trained teacher: ``teacher.safetensors``, and last ``teacher.json``."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_write(folder / _WEIGHTS) as temporary:
        save_file(state, temporary)
    checksums = digests(folder, [_WEIGHTS])
    card = {"of": folder.name, "name": name, "acc1": acc1, "checksums": checksums}
    write_sealed(folder / _CARD, card)


def load_trained(network: Classifier, folder: Path) -> float | None:
    """Load what :func:`save_trained` wrote and return its test accuracy; None if it is absent.

    Raises:
        DamagedError: If it is there but not as it was written.
    """
    if not (folder / _CARD).exists():
        return None
    card = read_own(folder / _CARD, folder.name)
    verify(folder, card["checksums"])
    load_into(network, folder / _WEIGHTS)
    return float(card["acc1"])
