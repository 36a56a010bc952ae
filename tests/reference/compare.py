"""Equality of a loss and its slow transcription, value and gradients, in float64."""

from collections.abc import Callable

import torch
from torch import Tensor


def value_and_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Evaluate at float64 copies of ``inputs``; an input without influence has gradient zero."""
    leaves = [tensor.detach().double().clone().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return [value.detach(), *gradients]


def assert_same_with_gradients(
    actual: Callable[..., Tensor], expected: Callable[..., Tensor], *inputs: Tensor
) -> None:
    """Evaluate both functions at ``inputs`` and compare results, dtype and all gradients."""
    torch.testing.assert_close(
        value_and_gradients(actual, *inputs),
        value_and_gradients(expected, *inputs),
        rtol=1e-9,
        atol=1e-12,
    )
