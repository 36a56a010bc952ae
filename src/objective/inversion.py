"""What a frozen teacher, and a prior on images, ask of substitution images.

Three groups: terms of the prediction, the BatchNorm-statistics term, and priors on pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from src.objective.precision import at_least_float32


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the teacher's ``logits [B, K]`` with the wanted ``labels [B]``, in nats."""
    return F.cross_entropy(at_least_float32(logits), labels)


def one_hot_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of the teacher's ``logits [B, K]`` with their own argmax, in nats.

    Source: Chen et al., Data-Free Learning of Student Networks, ICCV 2019, arXiv:1904.01186.
    """
    return class_loss(logits, logits.argmax(dim=1))


def activation_loss(features: Tensor) -> Tensor:
    """Negative mean magnitude of the teacher's penultimate ``features [B, d]``.

    Source: Chen et al., Data-Free Learning of Student Networks, ICCV 2019, arXiv:1904.01186.
    Differs from the paper: the mean is over the batch and the features, as in the released code.
    """
    return -at_least_float32(features).abs().mean()


def balance_loss(logits: Tensor, base: float = math.e) -> Tensor:
    """Negative entropy of the batch's mean prediction, ``sum_c p_c log p_c``, p = mean_i softmax.

    The log base scales the term, so a published weight w belongs to its base: in nats it is
    ``w / ln(base)``. DAFL took base 10, MosaicKD 2, and the DAFL of CMI and Fast e.

    Args:
        logits: ``[B, K]``, floating.
        base: Base of the logarithm, > 1.

    Returns:
        Scalar from 0 (one class only) down to ``-log_base K`` (all classes alike).

    Source: Chen et al., Data-Free Learning of Student Networks, ICCV 2019, arXiv:1904.01186.
    """
    # Averaging in log space keeps value and gradient finite where a class underflows to 0.
    log_probs = F.log_softmax(at_least_float32(logits), dim=1)
    log_mean = torch.logsumexp(log_probs, dim=0) - math.log(len(logits))
    return (log_mean.exp() * log_mean).sum() / math.log(base)


def align_loss(logits: Tensor) -> Tensor:
    """Mean entropy of the teacher's predictions ``logits [B, K]``, in nats.

    Source: Fang et al., Mosaicking to Distill, NeurIPS 2021, arXiv:2110.15094, Eq. 4.
    """
    log_probs = F.log_softmax(at_least_float32(logits), dim=1)
    return -(log_probs.exp() * log_probs).sum(dim=1).mean()


class BNStatistics(NamedTuple):
    """Batch statistics at the inputs of all BatchNorm layers, concatenated in module order.

    Attributes:
        mean: ``[D]``, D the sum of the layers' channels, at least float32.
        var: ``[D]``, biased variance.
    """

    mean: Tensor
    var: Tensor

    @classmethod
    def from_layers(cls, means: Sequence[Tensor], variances: Sequence[Tensor]) -> "BNStatistics":
        """Concatenate one ``[C_l]`` mean and one ``[C_l]`` biased variance per layer."""
        return cls(
            at_least_float32(torch.cat([*means])), at_least_float32(torch.cat([*variances]))
        )

    def detached(self) -> "BNStatistics":
        """The same, without a graph."""
        return BNStatistics(self.mean.detach(), self.var.detach())

    def smoothed(self, previous: "BNStatistics | None", momentum: float) -> "BNStatistics":
        """Mix in constant earlier statistics, ``(1 - m) * self + m * previous``.

        The gradient that reaches this batch shrinks by ``1 - m``. The last mix of one round,
        detached, is the next round's ``previous``.

        Args:
            previous: Statistics of the rounds before; in the first round none, and no mixing.
            momentum: m in [0, 1).

        Source: Fang et al., Up to 100x Faster Data-free Knowledge Distillation, AAAI 2022,
        arXiv:2112.06253.
        """
        if previous is None:
            return self
        return BNStatistics(
            torch.lerp(self.mean, previous.mean.detach(), momentum),
            torch.lerp(self.var, previous.var.detach(), momentum),
        )


@dataclass(frozen=True)
class BNTarget:
    """Running statistics of all BatchNorm layers, and which layer each channel belongs to.

    Attributes:
        mean: Running means ``[D]``, in the order of ``BNStatistics``.
        var: Running variances ``[D]``.
        segments: Layer number of each channel ``[D]``, int64.
        num_layers: L.
    """

    mean: Tensor
    var: Tensor
    segments: Tensor
    num_layers: int

    @classmethod
    def from_layers(cls, means: Sequence[Tensor], variances: Sequence[Tensor]) -> "BNTarget":
        """Concatenate a copy of one running mean and one running variance ``[C_l]`` per layer."""
        statistics = BNStatistics.from_layers(means, variances)
        segments = _segments(tuple(map(len, means)), statistics.mean.device)
        return cls(statistics.mean, statistics.var, segments, len(means))


@cache  # a copy to a GPU waits for all it has to do, and some methods need this in every step
def _segments(widths: tuple[int, ...], device: torch.device) -> Tensor:
    """As many times its number as each layer has channels, ``[D]`` int64."""
    return (
        torch.arange(len(widths))
        .repeat_interleave(torch.tensor(widths), output_size=sum(widths))
        .to(device)
    )


def bn_statistics_loss(
    batch: BNStatistics, target: BNTarget, layer_weights: Tensor | None = None
) -> Tensor:
    """Distance of a batch's BatchNorm statistics from the running ones.

    ``sum_l w_l (||mean_l - running_mean_l||_2 + ||var_l - running_var_l||_2)``. The norms are not
    squared, so each has a gradient of unit length however far off the layer is.

    Args:
        batch: Statistics of the batch, smoothed or not.
        target: Running statistics of the same layers.
        layer_weights: w ``[L]``, such as 10 for the first layer and 1 elsewhere; all 1 if omitted.

    Returns:
        Scalar; where a norm is zero so is its gradient.

    Source: Yin et al., Dreaming to Distill, CVPR 2020, arXiv:1912.08795.
    """
    gaps = torch.stack([batch.mean - target.mean, batch.var - target.var])
    squares = gaps.new_zeros(2, target.num_layers).index_add(1, target.segments, gaps.square())
    # The root has no finite slope at zero: there, torch.where keeps autograd away from it.
    positive = squares > 0
    norms = torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
    return (norms if layer_weights is None else norms * layer_weights).sum()


def total_variation_l1(images: Tensor) -> Tensor:
    """Sum over four neighbour directions of the mean absolute difference in ``[B, C, H, W]``.

    Source: Yin et al., Dreaming to Distill, CVPR 2020, arXiv:1912.08795.
    """
    return torch.stack([gap.abs().mean() for gap in _neighbour_differences(images)]).sum()


def total_variation_l2(images: Tensor) -> Tensor:
    """Sum over four neighbour directions of the whole batch's Frobenius norm of differences.

    It grows with the root of the batch size; where a norm is zero so is its gradient.

    Source: Yin et al., Dreaming to Distill, CVPR 2020, arXiv:1912.08795.
    """
    differences = _neighbour_differences(images)
    return torch.stack([torch.linalg.vector_norm(gap) for gap in differences]).sum()


def image_norm(images: Tensor, per_sample: bool = False) -> Tensor:
    """Euclidean norm of ``images [B, C, H, W]``: of the whole batch, or per sample and averaged.

    Source: Yin et al., Dreaming to Distill, CVPR 2020, arXiv:1912.08795; its released code takes
    the whole batch for CIFAR-10 and the average for ImageNet.
    """
    images = at_least_float32(images)
    rows = images.flatten(1) if per_sample else images.flatten().unsqueeze(0)
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.mean()


def _neighbour_differences(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Horizontal, vertical and both diagonal differences of adjacent pixels."""
    images = at_least_float32(images)
    return (
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, :] - images[..., :-1, :],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
