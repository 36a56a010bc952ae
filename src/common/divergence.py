"""How far shares are from even."""

import math
from collections.abc import Sequence


def divergence_from_uniform(shares: Sequence[float]) -> float:
    """``KL(p || u) = sum_k p_k log(K p_k)`` in nats: 0 for equal shares, log K for one class."""
    return max(0.0, math.fsum(p * math.log(len(shares) * p) for p in shares if p > 0))
