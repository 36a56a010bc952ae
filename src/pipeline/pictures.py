"""Substitution images as they are shown."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from src.dataset.contract import ImageSpec
from src.dataset.normalisation import Normalisation
from src.substitution.image_bank import ImageBank


def evenly_spaced(total: int, count: int) -> Tensor:
    """``min(count, total)`` indices from first to last, int64."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).long()


def shown(bank: ImageBank, index: Tensor, spec: ImageSpec) -> Tensor:
    """Images of ``bank`` as uint8; whitened ones through the data set's statistics."""
    images = bank.images[index.to(bank.images.device)].cpu()
    if bank.pixels:
        return images
    pixels = Normalisation.of(spec).inverse(images.float())
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def shown_of_all(banks: Sequence[ImageBank], rows: Tensor, spec: ImageSpec) -> Tensor:
    """Images of several banks by their rows ``[n]``, counted bank after bank; uint8."""
    starts = [0, *accumulate(len(bank) for bank in banks)]
    images = []
    for row in rows.tolist():
        position = bisect_right(starts, row) - 1
        images.append(shown(banks[position], torch.tensor([row - starts[position]]), spec))
    return torch.cat(images)
