"""Contexts that freeze a module for a while and put it back exactly as it was."""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from src.common.errors import UserError, described


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Stop gradients from being computed for the parameters; those of inputs still flow.

    The reference implementations back-propagate into teacher and student weights during
    synthesis and throw the result away; freezing gives the same numbers for less.
    """
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put ``module`` in train or eval mode, and every sub-module back where it was."""
    before = [(child, child.training) for child in module.modules()]
    module.train(training)
    try:
        yield
    finally:
        for child, flag in before:
            child.training = flag


@contextmanager
def unchanged(module: nn.Module) -> Iterator[None]:
    """Give a module its buffers back, the same objects, and what it counts in an extra state.

    Raises:
        UserError: If an extra state cannot be copied.
    """
    parts = [each for each in module.modules() if not isinstance(each, torch.jit.ScriptModule)]
    buffers = [dict(part._buffers) for part in parts]
    values = [(each, each.clone()) for each in module.buffers()]
    counting = [part for part in parts if _has_state(type(part))]
    states = [_state_of(part) for part in counting]
    try:
        yield
    finally:
        for part, kept in zip(parts, buffers, strict=True):
            part._buffers.clear()
            part._buffers.update(kept)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        for part, state in zip(counting, states, strict=True):
            part.set_extra_state(state)


def _has_state(kind: type[nn.Module]) -> bool:
    """Whether a class has an extra state that can be given back."""
    plain = nn.Module
    gives = kind.get_extra_state is not plain.get_extra_state
    return gives and kind.set_extra_state is not plain.set_extra_state


def _state_of(part: nn.Module) -> Any:
    with torch.no_grad():
        state = part.get_extra_state()
    try:
        return copy.deepcopy(state)
    except (TypeError, RuntimeError, AttributeError, pickle.PickleError, copy.Error) as error:
        raise UserError(
            f"Cannot copy what get_extra_state of {type(part).__qualname__} gives "
            f"({described(error)}); let it give tensors without a graph, numbers, strings, lists "
            "and dicts"
        ) from error
