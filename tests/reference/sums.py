"""A loop over tensors, typed."""

from collections.abc import Iterable
from functools import reduce

from torch import Tensor


def total(values: Iterable[Tensor]) -> Tensor:
    """Sum at least one tensor, from left to right."""
    return reduce(lambda left, right: left + right, values)
