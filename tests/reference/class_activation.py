"""Slow, literal class activation maps of a network whose slopes are worked out by hand."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tests.reference.distillation import softmax
from tests.reference.sums import total


class Network(NamedTuple):
    """Two stages: ``A2 = a * A1^2`` at every second position, then means and a linear layer."""

    scales: Tensor  # a, [C]
    head: Tensor  # [K, C]

    def second(self, first: Tensor) -> Tensor:
        """``[B, C, H / 2, W / 2]`` of ``[B, C, H, W]``."""
        return self.scales[:, None, None] * first[:, :, ::2, ::2] ** 2

    def logits(self, second: Tensor) -> Tensor:
        """``[B, K]``."""
        return second.mean((2, 3)) @ self.head.T

    def slopes(self, first: Tensor, classes: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Mean derivative of one logit of each image at either stage, by the chain rule."""
        _, channels, height, width = first.shape
        reached = len(range(0, height, 2)) * len(range(0, width, 2))
        at_first, at_second = [], []
        for image, k in zip(first, classes, strict=True):
            each = [self.head[k, c] / reached for c in range(channels)]
            at_second.append(torch.stack(each))
            rows = [
                total(
                    each[c] * 2 * self.scales[c] * image[c, y, x]
                    for y in range(0, height, 2)
                    for x in range(0, width, 2)
                )
                / (height * width)
                for c in range(channels)
            ]
            at_first.append(torch.stack(rows))
        return torch.stack(at_first), torch.stack(at_second)


def _combined(maps: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    """``sum_c w_c A_c`` of one image ``[C, H, W]``, position by position."""
    _, height, width = maps.shape
    return [
        total(w * maps[c, y, x] for c, w in enumerate(weights))
        for y in range(height)
        for x in range(width)
    ]


def _mean_square(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    return total((a - b) ** 2 for a, b in zip(left, right, strict=True)) / len(left)


def published_loss(
    student: Network, first: Tensor, teacher: Network, its_first: Tensor, tau: float, weight: float
) -> Tensor:
    """``tau^2`` times the mean over images and classes of the KL, plus the weighted distances."""
    mine, its = student.second(first), teacher.second(its_first).detach()
    logits, wanted = student.logits(mine), teacher.logits(its).detach()
    terms = []
    for s, t in zip(logits, wanted, strict=True):
        p, q = softmax(t / tau), softmax(s / tau)
        terms += [p[k] * (p[k] / q[k]).log() for k in range(len(t))]
    loss = tau**2 * total(terms) / len(terms)
    count = len(first)
    seen, shown = (
        [value for image in maps for row in head.detach() for value in _combined(image, list(row))]
        for maps, head in ((mine, student.head), (its, teacher.head))
    )
    loss = loss + weight * _mean_square(seen, shown)
    classes = [int(row.argmax()) for row in wanted]
    slopes = [each.detach() for each in student.slopes(first, classes)]
    of_teacher = teacher.slopes(its_first.detach(), classes)
    for maps, my, theirs, w in zip(
        (first, mine), slopes, (its_first, its), of_teacher, strict=True
    ):
        pair = [
            [value for b in range(count) for value in _combined(each[b], list(weights[b]))]
            for each, weights in ((maps, my), (theirs.detach(), w.detach()))
        ]
        loss = loss + weight * _mean_square(*pair)
    return loss
