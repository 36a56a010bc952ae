"""How uneven substitution data is, as the teacher sees it: what strength may be taken from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from src.common.distributed import gather_objects
from src.common.divergence import divergence_from_uniform
from src.kdci.dictionary import ConfounderDictionary

Auto = Literal["auto"]
HALF = 0.05
"""Divergence in nats at which an automatic strength is one half; a choice of ours."""


def class_shares(dictionary: ConfounderDictionary) -> Tensor:
    """Shares ``[K]`` float64 of the teacher's predicted classes, as the dictionary counts them."""
    counts = dictionary.counts.sum(0).double()
    return counts / counts.sum()


def as_in_batches(
    dictionary: ConfounderDictionary, banks: Sequence[Tensor]
) -> ConfounderDictionary:
    """The dictionary with the classes' shares of batches, of which each bank is an equal part.

    Clusters keep their shares within each class. Called on all ranks.

    Args:
        dictionary: Of all substitution data; every image counts alike.
        banks: Teacher's logits ``[M_b, K]`` of this rank's images in each bank.

    Returns:
        One with ``counts`` ``[N, K]`` float64 of the same sum, whatever the banks' sizes; the same
        one where there is a single bank.
    """
    if len(banks) == 1:
        return dictionary
    num_classes = dictionary.counts.shape[1]
    own = torch.stack([bank.argmax(1).bincount(minlength=num_classes).cpu() for bank in banks])
    counts = over_ranks(own).double()
    wanted = (counts / counts.sum(1, keepdim=True)).mean(0)
    shares = class_shares(dictionary)
    return replace(
        dictionary, counts=dictionary.counts * torch.where(shares > 0, wanted / shares, 1.0)
    )


def over_ranks(counts: Tensor) -> Tensor:
    """Their sum over ranks; they may lie on the CPU, where NCCL adds up nothing."""
    return torch.stack(gather_objects(counts)).sum(0)


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
