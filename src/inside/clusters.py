"""Which samples lie by which prototype, in the space in which they were clustered."""

from typing import NamedTuple

import torch
from torch import Tensor

_ROWS = 4096


class Clusters(NamedTuple):
    """Samples by prototype.

    Attributes:
        assignment: Nearest prototype of every row, ``[M]`` int64.
        nearest: Rows nearest to every prototype, ``[N, n]`` int64, the nearest first.
    """

    assignment: Tensor
    nearest: Tensor


def principal(rows: Tensor, others: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Both, on the first ``dim`` principal axes of ``rows``; distances are those after PCA.

    Args:
        rows: ``[M, d]``; its mean and axes count.
        others: ``[N, d]``.
        dim: Axes that are kept, below d.

    Returns:
        ``[M, dim]`` and ``[N, dim]``, float64.
    """
    rows, others = rows.double(), others.double()
    mean = rows.mean(0)
    axes = torch.linalg.eigh((rows - mean).T @ (rows - mean)).eigenvectors[:, -dim:]
    return (rows - mean) @ axes, (others - mean) @ axes


def clusters(rows: Tensor, prototypes: Tensor, count: int) -> Clusters:
    """Assign every row to its nearest prototype, and find the rows nearest to each.

    A prototype is the mean of its members: where k-means had converged, these are they.

    Args:
        rows: ``[M, d]``.
        prototypes: ``[N, d]``.
        count: Rows to find for each prototype, at most M.
    """
    assignments, candidates, distances = [], [], []
    for start in range(0, len(rows), _ROWS):  # of all at once, 50,000 x 512 would be 200 MB
        part = torch.cdist(rows[start : start + _ROWS].double(), prototypes.double())
        assignments.append(part.argmin(1))
        found = part.topk(min(count, len(part)), dim=0, largest=False)
        distances.append(found.values)
        candidates.append(found.indices + start)
    best = torch.cat(distances).topk(min(count, len(rows)), dim=0, largest=False).indices
    nearest = torch.cat(candidates).gather(0, best).T
    return Clusters(torch.cat(assignments), nearest)


def class_mix(
    assignment: Tensor, predicted: Tensor, num_clusters: int, num_classes: int
) -> list[list[float] | None]:
    """Shares of the predicted classes among the members of every cluster, ``[N][K]``.

    Args:
        assignment: Cluster of every row, ``[M]``.
        predicted: Its predicted class, ``[M]``.
        num_clusters: N.
        num_classes: K.

    Returns:
        None for a cluster without members.
    """
    pairs = torch.bincount(
        assignment * num_classes + predicted, minlength=num_clusters * num_classes
    )
    counts = pairs.view(num_clusters, num_classes).double()
    return [(row / row.sum()).tolist() if row.any() else None for row in counts]
