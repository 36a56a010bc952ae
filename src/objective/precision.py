"""The rules on floating-point width that every loss and its gradient follow."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Widen to float32 what is narrower, so that losses are safe under autocast; keep float64.

    Args:
        tensor: Any shape, any floating dtype.

    Returns:
        The same values, same shape, in float32 or float64.
    """
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def backward_pass(loss: Tensor) -> Iterator[None]:
    """Where gradients of ``loss`` are computed, under Lightning's autocast.

    Each product has the dtypes of the forward pass; autocast would narrow those of float32 parts,
    such as the last layer.
    """
    with torch.autocast(loss.device.type, enabled=False):
        yield


def backward(loss: Tensor, inputs: Sequence[Tensor] | None = None) -> None:
    """Add the gradients of a scalar to its leaves, or to ``inputs`` alone."""
    with backward_pass(loss):
        loss.backward(inputs=inputs)
