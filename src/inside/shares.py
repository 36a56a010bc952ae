"""Shares of classes, and shares of images on which two predictions are equal."""

import torch
from torch import Tensor


def class_shares(labels: Tensor, num_classes: int) -> list[float]:
    """Share of every class among ``labels`` ``[n]``, n >= 1; ``[K]``, sums to 1."""
    counts = torch.bincount(labels, minlength=num_classes).double()
    shares: list[float] = (counts / counts.sum()).tolist()
    return shares


def share_of(hits: Tensor) -> float | None:
    """Share of true entries of ``hits`` ``[n]``; None of none."""
    return float(hits.double().mean()) if len(hits) else None


def share_per_class(hits: Tensor, labels: Tensor, num_classes: int) -> list[float | None]:
    """The same for the images of each class, ``[K]``; None for a class without images."""
    return [share_of(hits[labels == label]) for label in range(num_classes)]
