"""Backdoor adjustment by weights: inverse propensity of the strata."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from src.common.errors import UserError
from src.kdci.adjustment import Adjustment
from src.kdci.dictionary import ConfounderDictionary
from src.kdci.unevenness import Auto, over_ranks

_STEPS = 100  # of gamma, where it is searched
_LARGEST_GAMMA = 10  # ratios of a million to the power of much more are infinite


class InversePropensityWeighting(Adjustment):
    """Draws substitution samples with weights ``(P*(z) / P(z))^gamma`` over strata z.

    The student's risk under ``sum_z P*(z) P(X | z)`` instead of ``sum_z P(z) P(X | z)``: what the
    compensation does to the prediction, this does to the samples. P is the share of a stratum in
    the substitution data, P* is even over the strata that have samples. In ``replay`` every epoch
    passes over the images and leaves some out; ``online`` draws again within each batch. Of
    several banks (MosaicKD's made and pool images), which have fixed shares of a batch, each is
    weighted by its own P in ``replay``, with one gamma for all; ``online`` P is that of a batch.

    Args:
        dictionary: The confounders and, of every one, the teacher's predicted classes.
        num_classes: K.
        strata: Predicted ``class``, ``cluster`` of the dictionary, or ``both``: classes are even,
            and the clusters within each. A sample's cluster is that of the nearest prototype,
            which with PCA or random prototypes need not be the one that it was counted in.
        gamma: 0 leaves the data as it is, bit for bit, 1 makes strata even; ``auto`` is the
            largest up to 1 that keeps ``min_effective``.
        min_effective: Least effective sample size ``(sum w)^2 / sum w^2`` that ``auto`` may leave,
            as a share of that without weights.
        largest: No weight is larger, relative to their mean before any was cut to this.
        seed: Not used: what is drawn is drawn by the student's fit.

    Raises:
        UserError: If strata by cluster are asked of a dictionary of features.

    Source: Horvitz & Thompson, A Generalization of Sampling Without Replacement From a Finite
    Universe, 1952; effective sample size: Kish, Survey Sampling, 1965. Not in the KDCI paper.
    """

    table: Tensor  # weights of cluster and class, relative to the largest

    def __init__(
        self,
        dictionary: ConfounderDictionary,
        *,
        num_classes: int,
        seed: int,
        strata: Literal["class", "cluster", "both"] = "class",
        gamma: Annotated[float, Field(ge=0, le=_LARGEST_GAMMA)] | Auto = "auto",
        min_effective: Annotated[float, Field(gt=0, le=1)] = 0.5,
        largest: Annotated[float, Field(ge=1)] = 20.0,
    ) -> None:
        super().__init__(dictionary, num_classes=num_classes, seed=seed)
        if strata != "class" and dictionary.space != "logits":
            raise UserError(
                f"Expected kdci.dictionary.space=logits with kdci.adjustment.strata={strata}, but "
                f"got '{dictionary.space}'"
            )
        self.strata, self.gamma = strata, gamma
        self.min_effective, self.largest = min_effective, largest
        self.register_buffer("table", torch.ones(dictionary.counts.shape, dtype=torch.double))
        self.load(dictionary)

    @torch.no_grad()
    def load(self, dictionary: ConfounderDictionary) -> None:
        """Weigh the strata of a dictionary."""
        super().load(dictionary)
        (table,) = self._weighed([dictionary.counts.double()])
        self.table.copy_(table)

    def _weighed(self, banks: Sequence[Tensor]) -> list[Tensor]:
        """Weights of the cells of each bank ``[N, K]``, relative to its largest."""
        ratios = [_ratio(counts, self.strata) for counts in banks]
        gamma = self._gamma(banks, ratios)
        weights = self._weights(banks, ratios, gamma)
        self.facts = {"gamma": gamma, "effective": _effective(banks, weights)}
        return [
            (of / of[counts > 0].max()).clamp(max=1)
            for counts, of in zip(banks, weights, strict=True)
        ]

    def _weights(
        self, banks: Sequence[Tensor], ratios: Sequence[Tensor], gamma: float
    ) -> list[Tensor]:
        each = zip(banks, ratios, strict=True)
        return [_weights(counts, ratio, gamma, self.largest) for counts, ratio in each]

    def _gamma(self, banks: Sequence[Tensor], ratios: Sequence[Tensor]) -> float:
        if self.gamma != "auto":
            return self.gamma
        for step in range(_STEPS, 0, -1):
            weights = self._weights(banks, ratios, step / _STEPS)
            if _effective(banks, weights) >= self.min_effective:
                return step / _STEPS
        return 0.0

    def weights(self, teacher_logits: Tensor) -> Tensor | None:
        """Weights ``[B]`` in (0, 1] of samples by the teacher's logits ``[B, K]``.

        None where no stratum differs.
        """
        if bool((self.table == 1).all()):
            return None
        return self.table[self._cells(teacher_logits)]

    def weights_within(self, banks: Sequence[Tensor]) -> list[Tensor] | None:
        """Weights ``[M_b]`` of the samples of each bank ``[M_b, K]``; one is as the dictionary.

        None where no stratum of any bank differs.
        """
        if len(banks) == 1:
            return super().weights_within(banks)
        tables = self._weighed([self._counts(bank) for bank in banks])
        if all(bool((table == 1).all()) for table in tables):
            return None
        return [table[self._cells(bank)] for table, bank in zip(tables, banks, strict=True)]

    def _counts(self, teacher_logits: Tensor) -> Tensor:
        """Samples of all ranks in each cell ``[N, K]``."""
        counts = torch.zeros_like(self.table)
        ones = counts.new_ones(len(teacher_logits))
        counts.index_put_(self._cells(teacher_logits), ones, accumulate=True)
        return over_ranks(counts)

    def _cells(self, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Cluster and class of each sample; the first cluster where all have the same weights."""
        classes = teacher_logits.argmax(1)
        if self.strata == "class":
            return torch.zeros_like(classes), classes
        return torch.cdist(teacher_logits.float(), self.prototypes).argmin(1), classes


def _ratio(counts: Tensor, strata: str) -> Tensor:
    """P*(z) / P(z) ``[N, K]`` of every cell of cluster and class; 1 where there is no sample."""
    total = counts.sum()
    by_class, by_cluster = counts.sum(0, keepdim=True), counts.sum(1, keepdim=True)
    if strata == "class":
        sizes, even = by_class, total / (by_class > 0).sum()
    elif strata == "cluster":
        sizes, even = by_cluster, total / (by_cluster > 0).sum()
    else:
        sizes = counts
        cells = (counts > 0).sum(0, keepdim=True).clamp(min=1)
        even = total / (by_class > 0).sum() / cells
    return torch.where(sizes > 0, even / sizes, 1.0).expand_as(counts)


def _weights(counts: Tensor, ratio: Tensor, gamma: float, largest: float) -> Tensor:
    """Of mean 1 over the data; equal exactly where gamma is 0."""
    weights = ratio**gamma
    weights = weights / ((weights * counts).sum() / counts.sum()) if gamma else weights
    return weights.clamp(max=largest)


def _effective(banks: Sequence[Tensor], weights: Sequence[Tensor]) -> float:
    """Effective sample size of equal parts of each bank, as a share of that without weights."""
    each = [*zip(banks, weights, strict=True)]
    sizes = [(counts * of).sum() ** 2 / (counts * of**2).sum() for counts, of in each]
    without = [counts.sum() for counts in banks]
    return float(sum(1 / size for size in without) / sum(1 / size for size in sizes))
