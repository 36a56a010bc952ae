"""What may happen to a file. Each takes the file, another of its kind, and chance."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.chaos.verdict import NotPossible

Damage = Callable[[Path, Path, Random], None]


def flip(path: Path, _: Path, rng: Random) -> None:
    """One bit is another."""
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, _: Path, rng: Random) -> None:
    """The end is missing."""
    path.write_bytes(path.read_bytes()[: rng.randrange(1, path.stat().st_size)])


def empty(path: Path, _: Path, rng: Random) -> None:
    """Nothing is left."""
    path.write_bytes(b"")


def zeros(path: Path, _: Path, rng: Random) -> None:
    """Zeros of the same length, as some file systems leave after a power cut."""
    path.write_bytes(bytes(path.stat().st_size))


def noise(path: Path, _: Path, rng: Random) -> None:
    """Random bytes of the same length."""
    path.write_bytes(rng.randbytes(path.stat().st_size))


def swap(path: Path, other: Path, rng: Random) -> None:
    """That of another run."""
    if path.is_dir():
        shutil.rmtree(path)
        shutil.copytree(other, path)
    else:
        shutil.copyfile(other, path)


def missing(path: Path, _: Path, rng: Random) -> None:
    """It is gone."""
    path.unlink()


def folder(path: Path, _: Path, rng: Random) -> None:
    """A folder lies in its place, and is not empty."""
    path.unlink()
    (path / "inner").mkdir(parents=True)


def surplus(path: Path, _: Path, rng: Random) -> None:
    """Something has been appended."""
    with path.open("ab") as file:
        file.write(rng.randbytes(rng.randrange(1, 64)))


def permute(path: Path, _: Path, rng: Random) -> None:
    """Rows of an array changed places; the format is whole."""
    if path.suffix == ".npy":
        rows = np.load(path)
        np.save(path, np.roll(rows, 1, axis=0))
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            header = file.metadata()
        save_file(_rolled(load_file(path)), path, metadata=header)
    elif path.suffix == ".pt":
        torch.save(_rolled(torch.load(path, weights_only=True)), path)
    else:
        raise NotPossible


def _rolled(node: Any) -> Any:
    if isinstance(node, torch.Tensor) and node.ndim > 1 and node.is_floating_point():
        return node.roll(1, 0).contiguous()
    if isinstance(node, dict):
        return {key: _rolled(value) for key, value in node.items()}
    return node


def plausible(path: Path, _: Path, rng: Random) -> None:
    """A number of a card is another; the rest, and the seal, stay."""
    _edit(path, rng, lambda value: value + 1)


def not_a_number(path: Path, _: Path, rng: Random) -> None:
    """A number of a card is NaN, as Python writes it."""
    _edit(path, rng, lambda value: float("nan"))


def _edit(path: Path, rng: Random, change: Callable[[Any], Any]) -> None:
    if path.suffix != ".json":
        raise NotPossible
    content = json.loads(path.read_text())
    places = list(_numbers(content))
    if not places:
        raise NotPossible
    node, key = rng.choice(places)
    node[key] = change(node[key])
    path.write_text(json.dumps(content, indent=1) + "\n")


def _numbers(node: Any) -> Any:
    if not isinstance(node, dict | list):
        return
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from _numbers(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield node, key


ALL: tuple[Damage, ...] = (
    flip,
    truncate,
    empty,
    zeros,
    noise,
    swap,
    missing,
    folder,
    surplus,
    permute,
    plausible,
    not_a_number,
)
