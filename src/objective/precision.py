"""The one rule on floating-point width that every loss follows."""

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
