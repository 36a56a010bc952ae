"""Systematic draws: as many of each as its weight asks for, up to one, in the given order.

Their variance is lower than that of independent draws, and equal weights leave everything as it
was.
"""

import torch
from torch import Tensor


def thinned(inclusion: Tensor, offset: float) -> Tensor:
    """Which places of a sequence stay, if each stays with its own probability.

    Args:
        inclusion: Probabilities ``[n]``, in [0, 1]; what has 0 never stays.
        offset: Uniform in [0, 1); the only random number.

    Returns:
        Increasing places, int64; their number is within one of the sum of the probabilities.
    """
    reached = inclusion.double().cumsum(0) + offset
    before = torch.cat([reached.new_full((1,), offset), reached[:-1]])
    return (reached.floor() > before.floor()).nonzero()[:, 0]


def resampled(weights: Tensor, offset: float) -> Tensor:
    """As many places as there are weights, each about as often as its share of them.

    Args:
        weights: ``[n]``, >= 0, their sum > 0.
        offset: Uniform in [0, 1); the only random number.

    Returns:
        Places ``[n]``, int64, not decreasing; place i comes floor or ceil(n w_i / sum w) times.
    """
    reached = weights.double().cumsum(0)
    reached = (reached / reached[-1] * len(weights)).clamp(max=len(weights))
    reached[-1] = len(weights)  # the sum may be rounded
    marks = torch.arange(len(weights), dtype=torch.double, device=weights.device) + offset
    return torch.searchsorted(reached, marks, right=True).clamp(max=len(weights) - 1)
