"""A small teacher, its files, and the way in which a file is refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.network.convnet import ConvNet
from src.teacher.checkpoint import load_into

State = dict[str, Tensor]
Form = Callable[[State], Any]


def network(classes: int = 4, widths: tuple[int, ...] = (4, 8)) -> ConvNet:
    return ConvNet(list(widths), num_classes=classes)


def written(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def below(prefix: str, state: Mapping[str, Tensor]) -> State:
    """The entries as a module would name them that has the network under ``prefix``."""
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    """Weights of the same network that are not the same."""
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


def refused(path: Path, match: str) -> str:
    """Loading ends in one clear line that names the file, and changes nothing."""
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError, match=match) as caught:
        load_into(target, path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
    return line
