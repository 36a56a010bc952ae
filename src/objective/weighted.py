"""The sum of loss terms that a method steps on."""

from collections.abc import Mapping

import torch
from torch import Tensor


def weighted_sum(terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """``sum_n weights[n] * terms[n]`` of scalar terms; a weight without a term does not count."""
    return torch.stack([weights[name] * term for name, term in terms.items()]).sum()
