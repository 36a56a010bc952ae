"""The rules on floating-point width that every loss and its gradient follow."""

from collections.abc import Sequence

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


def backward(loss: Tensor, inputs: Sequence[Tensor] | None = None) -> None:
    """Add the gradients of a scalar to its leaves, or to ``inputs`` alone.

    Each product has the dtypes of the forward pass. Lightning's autocast is still on after it, and
    would narrow those of float32 parts, such as the last layer.
    """
    with torch.autocast(loss.device.type, enabled=False):
        loss.backward(inputs=inputs)
