"""How uneven substitution data is, as the teacher sees it: what strength may be taken from."""

from typing import Literal

from torch import Tensor

from src.common.divergence import divergence_from_uniform
from src.kdci.dictionary import ConfounderDictionary

Auto = Literal["auto"]
HALF = 0.05
"""Divergence in nats at which an automatic strength is one half; a choice of ours."""


def class_shares(dictionary: ConfounderDictionary) -> Tensor:
    """Shares ``[K]`` float64 of the teacher's predicted classes over all substitution data.

    Of several banks every image counts alike, though a bank has the same share of a batch whatever
    its size.
    """
    counts = dictionary.counts.sum(0).double()
    return counts / counts.sum()


def divergence(dictionary: ConfounderDictionary) -> float:
    """That of these shares."""
    return divergence_from_uniform(class_shares(dictionary).tolist())


def strength_of(strength: float | Auto, dictionary: ConfounderDictionary) -> float:
    """A given strength, or D / (D + :data:`HALF`) of the divergence D: about 0 for even data.

    Reads nothing but the teacher's predictions on substitution data.
    """
    if strength != "auto":
        return strength
    uneven = divergence(dictionary)
    return uneven / (uneven + HALF)
