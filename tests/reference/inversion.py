"""Slow, literal inversion terms."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tests.reference.distillation import softmax
from tests.reference.sums import total


def one_hot(logits: Tensor) -> Tensor:
    """Mean of ``-log p`` at each sample's own argmax."""
    return total(-softmax(row)[int(row.argmax())].log() for row in logits) / len(logits)


def of_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``-log p`` at each sample's wanted class."""
    rows = zip(logits, labels, strict=True)
    return total(-softmax(row)[int(label)].log() for row, label in rows) / len(logits)


def activation(features: Tensor) -> Tensor:
    """Minus the mean of ``|f|`` over batch and features."""
    return -total(abs(value) for value in features.flatten()) / features.numel()


def balance(logits: Tensor, base: float) -> Tensor:
    """``sum_c p_c log p_c`` of the mean prediction."""
    rows = [softmax(row) for row in logits]
    means = [total(column) / len(rows) for column in zip(*rows, strict=True)]
    return total(mean * mean.log() / math.log(base) for mean in means)


def align(logits: Tensor) -> Tensor:
    """Mean over samples of ``-sum_c p_c ln p_c``."""
    return total(-total(p * p.log() for p in softmax(row)) for row in logits) / len(logits)


def norm(values: Sequence[Tensor]) -> Tensor:
    """Euclidean norm."""
    return total(value**2 for value in values) ** 0.5


def bn_layer(
    inputs: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float = 0.0,
    previous: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """``r_l`` of one layer, channel by channel, from the layer's input ``[B, C, H, W]``."""
    mean_gaps, var_gaps = [], []
    for c in range(inputs.shape[1]):
        values = list(inputs[:, c].flatten())
        mean = total(values) / len(values)
        var = total((value - mean) ** 2 for value in values) / len(values)
        if previous is not None:
            mean = (1 - momentum) * mean + momentum * previous[0][c].detach()
            var = (1 - momentum) * var + momentum * previous[1][c].detach()
        mean_gaps.append(running_mean[c] - mean)
        var_gaps.append(running_var[c] - var)
    return norm(var_gaps) + norm(mean_gaps)


def neighbour_differences(images: Tensor) -> list[list[Tensor]]:
    """Differences right, down, down-right and down-left, pixel by pixel."""
    _, _, height, width = images.shape
    directions = []
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        directions.append(
            [
                plane[y + dy, x + dx] - plane[y, x]
                for plane in images.flatten(0, 1)
                for y in range(height - dy)
                for x in range(width)
                if 0 <= x + dx < width
            ]
        )
    return directions


def total_variation_l1(images: Tensor) -> Tensor:
    """Sum over directions of the mean magnitude."""
    return total(
        torch.stack([abs(gap) for gap in gaps]).mean() for gaps in neighbour_differences(images)
    )


def total_variation_l2(images: Tensor) -> Tensor:
    """Sum over directions of the norm over the whole batch."""
    return total(norm(gaps) for gaps in neighbour_differences(images))


def image_norm(images: Tensor, per_sample: bool) -> Tensor:
    """One norm over everything, or the mean of one norm per sample."""
    if per_sample:
        return total(norm(list(image.flatten())) for image in images) / len(images)
    return norm(list(images.flatten()))
