"""Per-channel mean and standard deviation of images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from src.common.errors import UserError

Channels = tuple[float, float, float]
_PART = 2**22  # values; 32 MiB as float64


def measure(images: Tensor) -> tuple[Channels, Channels]:
    """Mean and standard deviation over all pixels of ``[N, 3, H, W]`` uint8, in [0, 1]."""
    total = torch.zeros(3, dtype=torch.float64)
    squares = torch.zeros(3, dtype=torch.float64)
    # Float copies of a whole data set would not fit.
    for part in images.split(min(1024, max(1, _PART // images.shape[1:].numel()))):
        pixels = part.double() / 255
        total += pixels.sum(dim=(0, 2, 3))
        squares += pixels.square().sum(dim=(0, 2, 3))
    count = images.numel() / 3
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    return _three(mean.tolist()), _three(std.tolist())


def checked(mean: Sequence[float], std: Sequence[float]) -> tuple[Channels, Channels]:
    """``mean`` and ``std`` as tuples, where they can normalise an RGB image.

    Raises:
        UserError: If there are not three of each, a standard deviation is not positive, or they
            are of pixels in 0..255.
    """
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
        raise UserError(
            "Expected `mean` and `std` to hold three finite numbers each, `std` above 0, but got "
            f"{list(mean)} and {list(std)}"
        )
    if not 0 <= min(mean) <= max(mean) <= 1 or max(std) > 1:
        raise UserError(
            "Expected `mean` in [0, 1] and `std` in (0, 1], of pixels in [0, 1], but got "
            f"{list(mean)} and {list(std)}; divide those of pixels in 0..255 by 255"
        )
    return _three(mean), _three(std)


def _three(values: Sequence[float]) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
