"""Slow, literal attention transfer: one image, one position, one channel at a time."""

from collections.abc import Sequence

from torch import Tensor

from tests.reference.distillation import kl
from tests.reference.sums import total

_EPS = 1e-12


def attention(image_maps: Tensor) -> list[Tensor]:
    """Of the maps ``[C, H, W]`` of one image: mean square over channels, to length 1."""
    channels, height, width = image_maps.shape
    row = [
        total(image_maps[c, y, x] ** 2 for c in range(channels)) / channels
        for y in range(height)
        for x in range(width)
    ]
    length = total(value**2 for value in row) ** 0.5
    return [value / max(length, _EPS) for value in row]


def distance(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Sum over stages of the mean over images and positions."""
    stages = []
    for student, teacher in zip(student_maps, teacher_maps, strict=True):
        gaps = [
            (s - t) ** 2
            for mine, its in zip(student, teacher, strict=True)
            for s, t in zip(attention(mine), attention(its), strict=True)
        ]
        stages.append(total(gaps) / len(gaps))
    return total(stages)


def published_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    beta: float,
) -> Tensor:
    """As published: the KL averaged over images and classes, plus beta times the distance."""
    rows = zip(student_logits, teacher_logits, strict=True)
    divergence = total(kl(s, t, 1.0) for s, t in rows) / student_logits.numel()
    return divergence + beta * distance(student_maps, teacher_maps)
