"""How the teacher's predictions are clustered into a confounder dictionary."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from src.common.errors import UserError
from src.common.seeding import generator
from src.kdci.dictionary import ConfounderDictionary, Space
from src.kdci.kmeans import Float, count_distinct, kmeans, project
from src.kdci.number import LEAST_DISTINCT, choose_number

# Generous bounds: a value beyond them is a slip that would fill the memory or never end.
Prototypes = Annotated[int, Field(gt=0, le=1_000_000)]
"""N of a dictionary."""
NumPrototypes = Prototypes | Literal["auto"]
_ROWS = 4096  # that are widened to float64 at a time


@dataclass(frozen=True)
class Clustering(ABC):
    """Makes a dictionary of predictions; equal fields on equal data give an equal dictionary.

    Attributes:
        N: Prototypes of the dictionary; ``auto`` finds their number.
        space: What is clustered: the teacher's logits or its penultimate features.
        seed: Seed of all that is drawn.
    """

    N: NumPrototypes
    space: Space = "logits"
    seed: int = 0

    @abstractmethod
    def fit(
        self, rows: Tensor, logits: Tensor | None = None, **origin: Any
    ) -> ConfounderDictionary:
        """The dictionary of all substitution data.

        Args:
            rows: Teacher predictions of all samples ``[M, d]``, in ``space``.
            logits: The teacher's ``[M, K]``, if ``rows`` are not; their classes are counted.
            origin: Facts for the provenance, e.g. ``teacher_sha256``.

        Raises:
            UserError: If these predictions cannot be clustered so.
        """

    def settings_of(self, kind: type[Any]) -> dict[str, Any]:
        """Those fields, for the provenance, that ``kind`` has, which this is one of.

        A subclass may add others that JSON does not hold; where a dictionary lies depends on all.
        """
        return {each.name: getattr(self, each.name) for each in fields(kind)}


@dataclass(frozen=True)
class KMeans(Clustering):
    """K-means of the predictions; every cluster is summarised by its mean and its share.

    Differs from the paper: prototypes are means of the predictions before PCA, so that they lie
    in the teacher's own space whatever PCA did (the paper leaves this open).

    Attributes:
        pca_dim: Dimension after PCA, or None for no PCA.
        prototypes: ``kmeans``, or ``random`` (ablation: same shape, matched mean and scale).
        iterations: Lloyd iterations.
        restarts: K-means runs, the one of the lowest inertia is kept.

    Source: Wang et al., De-confounded Data-free Knowledge Distillation for Handling Distribution
    Shifts, CVPR 2024, arXiv:2403.19539.
    """

    pca_dim: Annotated[int, Field(gt=0, le=65_536)] | None = None
    prototypes: Literal["kmeans", "random"] = "kmeans"
    iterations: Annotated[int, Field(gt=0, le=100_000)] = 25
    restarts: Annotated[int, Field(gt=0, le=10_000)] = 1

    def fit(
        self, rows: Tensor, logits: Tensor | None = None, **origin: Any
    ) -> ConfounderDictionary:
        """Cluster, and summarise every cluster.

        Raises:
            UserError: If N exceeds the number of distinct predictions, a prediction is not finite
                or too large, or ``pca_dim`` does not reduce or exceeds what the rows span.
        """
        data = np.ascontiguousarray(rows.float().cpu().numpy())
        self._check(data)
        reduced = data if self.pca_dim is None else project(data, self.pca_dim)
        count, found = self._number(reduced)
        clustering = kmeans(
            reduced,
            count,
            iterations=self.iterations,
            restarts=self.restarts,
            seed=self.seed,
        )
        sizes = np.bincount(clustering.assignment, minlength=count)
        if not sizes.all():
            raise UserError(
                f"Expected kdci.N={count} non-empty clusters, but predictions are "
                f"too alike for more than {np.count_nonzero(sizes)}; lower kdci.N or set "
                "kdci.dictionary.pca_dim=null"
            )
        order = np.argsort(-sizes, kind="stable")
        sums = _sums(data, clustering.assignment, count)
        prototypes = torch.from_numpy(sums[order] / sizes[order, None]).float()
        if self.prototypes == "random":
            prototypes = _random_like(prototypes, self.seed)
        prior = torch.from_numpy(sizes[order] / len(data)).float()
        counts = _count_classes(rows if logits is None else logits, clustering.assignment, order)
        facts = {"num_predictions": len(data), "inertia": clustering.inertia}
        own = {each.name: getattr(self, each.name) for each in fields(self)}
        own = {name: each for name, each in own.items() if _is_plain(each)}
        facts = self.settings_of(KMeans) | own | facts | found | {"faiss": version("faiss-cpu")}
        return ConfounderDictionary(prototypes, prior, counts, facts | origin)

    def _number(self, rows: Float) -> tuple[int, dict[str, Any]]:
        """N, and what the provenance says of how it was found."""
        if self.N != "auto":
            return self.N, {}
        count, silhouettes = choose_number(rows, iterations=self.iterations, seed=self.seed)
        return count, {"found_N": count, "silhouettes": silhouettes}

    def require_wider(self, width: int) -> None:
        """Refuse a PCA that does not reduce predictions of ``width`` columns.

        Raises:
            UserError: If ``pca_dim`` is not below it.
        """
        if self.pca_dim is not None and not 0 < self.pca_dim < width:
            raise UserError(
                f"Expected kdci.dictionary.pca_dim to be below the width {width} of the "
                f"predictions, but got {self.pca_dim}; null turns PCA off"
            )

    def _check(self, data: Float) -> None:
        low, high = torch.from_numpy(data).aminmax()  # NaN if one is; no copy of the data
        largest = max(-float(low), float(high))
        if not math.isfinite(largest):
            raise UserError("Expected finite teacher predictions, but some are NaN or infinite")
        if 4 * data.size * largest**2 > float(np.finfo(np.float32).max):  # FAISS would not tell
            raise UserError(
                "Expected teacher predictions whose squared distances add up within float32, but "
                f"they reach {largest:.3g}; check the teacher's checkpoint"
            )
        self.require_wider(data.shape[1])
        # M rows span M - 1 dimensions around their mean; FAISS fills one more with noise, then
        # fails.
        if self.pca_dim is not None and self.pca_dim >= len(data):
            raise UserError(
                "Expected kdci.dictionary.pca_dim to be below the number of predictions, but got "
                f"{self.pca_dim} >= {len(data)}; lower kdci.dictionary.pca_dim, set it to null, "
                "or raise substitution.num_images"
            )
        self._require_distinct(data)

    def _require_distinct(self, data: Float) -> None:
        least = LEAST_DISTINCT if self.N == "auto" else self.N
        distinct = count_distinct(data, least)
        if distinct >= least:
            return
        found = f"{distinct} of {len(data)}"
        if distinct < len(data) / 2:
            found += " (the substitution data has collapsed)"
        if self.N == "auto":
            raise UserError(
                f"Expected at least {least} distinct teacher predictions with kdci.N=auto, but "
                f"got {found}; set kdci.N to a number <= {distinct}, or raise "
                "substitution.num_images"
            )
        raise UserError(
            f"Expected kdci.N <= number of distinct teacher predictions, but got {self.N} > "
            f"{found}; lower kdci.N or raise substitution.num_images"
        )


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (str, int, float, bool)


def _sums(data: Float, assignment: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Float64 sums ``[count, d]`` of the rows of every cluster, one row after another."""
    sums = torch.zeros(count, data.shape[1], dtype=torch.float64)
    parts = zip(
        torch.from_numpy(data).split(_ROWS), torch.from_numpy(assignment).split(_ROWS), strict=True
    )
    for rows, clusters in parts:
        sums.index_add_(0, clusters, rows.double())
    exact: NDArray[np.float64] = sums.numpy()
    return exact


def _count_classes(logits: Tensor, assignment: NDArray[np.int64], order: Any) -> Tensor:
    """Predicted classes ``[N, K]`` of the members of every cluster, clusters in ``order``."""
    classes = logits.argmax(1).cpu()
    counts = torch.zeros(len(order), logits.shape[1], dtype=torch.int64)
    index = torch.from_numpy(assignment), classes
    counts.index_put_(index, torch.ones_like(classes), accumulate=True)
    return counts[torch.from_numpy(order)]


def _random_like(prototypes: Tensor, seed: int) -> Tensor:
    """Normal rows with the mean and scale, per dimension, of the true prototypes."""
    draws = torch.randn(prototypes.shape, generator=generator("cpu", seed, "random prototypes"))
    return prototypes.mean(0) + draws * prototypes.std(0, correction=0)
