"""Slow, literal InfoNCE of CMI."""

import torch
from torch import Tensor

from tests.reference.sums import total


def info_nce(anchors: Tensor, candidates: Tensor, temperature: float) -> list[Tensor]:
    """``e_i`` for every anchor, by explicit sums over all candidates."""
    constants = candidates.detach()
    errors = []
    for i, anchor in enumerate(anchors):
        scores = [(anchor * candidate).sum() / temperature for candidate in constants]
        errors.append(-(scores[i] - torch.stack([s.exp() for s in scores]).sum().log()))
    return errors


def contrastive(anchors: Tensor, candidates: Tensor, num_fresh: int, temperature: float) -> Tensor:
    """Mean over fresh rows, plus mean over bank rows if there are any."""
    errors = info_nce(anchors, candidates, temperature)
    loss = total(errors[:num_fresh]) / num_fresh
    if len(errors) > num_fresh:
        loss = loss + total(errors[num_fresh:]) / (len(errors) - num_fresh)
    return loss
