"""Attention transfer: at every stage the student shall look where the teacher looks."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.common.errors import UserError
from src.objective.distillation import StudentOutput, kl_divergence, positive_temperature
from src.objective.precision import at_least_float32


def attention(maps: Tensor) -> Tensor:
    """Mean square over the channels of ``[B, C, H, W]``, as rows ``[B, H * W]`` of length 1.

    A row of an image without activation is zero. At least float32.
    """
    return F.normalize(at_least_float32(maps).square().mean(dim=1).flatten(1), dim=1)


def attention_distance(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """``sum_l mean (a_S,l - a_T,l)^2`` over batch and positions, a as :func:`attention` has it.

    Gradients reach both arguments; detach the one that shall stay constant.

    Args:
        student_maps: ``[B, C_l, H_l, W_l]`` of every stage, floating.
        teacher_maps: The same; the number of channels may differ.

    Returns:
        Scalar, at least float32.

    Raises:
        UserError: If stages or sizes differ.

    Source: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017,
    arXiv:1612.03928.
    """
    require_alike(student_maps, teacher_maps)
    pairs = zip(student_maps, teacher_maps, strict=True)
    return torch.stack([F.mse_loss(attention(s), attention(t)) for s, t in pairs]).sum()


def require_alike(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> None:
    """Refuse stage maps that cannot be compared position by position.

    Raises:
        UserError: If there are none, one is no ``[B, C, H, W]``, or number or sizes differ.
    """
    student, teacher = _sizes(student_maps), _sizes(teacher_maps)
    is_flat = any(maps.ndim != 4 for maps in (*student_maps, *teacher_maps))
    if not student or is_flat or student != teacher:
        raise UserError(
            "Expected the stage maps of teacher and student, which the loss compares, to be of "
            f"equal number and sizes, but got {', '.join(teacher) or 'none'} of the teacher and "
            f"{', '.join(student) or 'none'} of the student; choose networks of one family, or "
            "a loss without stage maps (baseline.attention_weight=0)"
        )


def _sizes(maps: Sequence[Tensor]) -> list[str]:
    return ["x".join(map(str, each.shape[2:])) for each in maps]


class AttentionTransferObjective(nn.Module):
    """Temperature-scaled KL and attention transfer, the teacher held constant.

    ``KL + weight * K * sum_l mean (a_S,l - a_T,l)^2`` for K classes. Published is the mean of the
    KL over the classes, too, without the factor K; this is K times it, so that the KL is that of
    all other objectives, and ``weight`` that of the paper.

    Args:
        temperature: tau > 0.
        weight: beta >= 0; 250 as published.

    Raises:
        UserError: If ``temperature`` is not positive; in the first step, if stages differ.

    Source: Micaelli and Storkey, Zero-shot Knowledge Transfer via Adversarial Belief Matching,
    NeurIPS 2019, arXiv:1905.09768.
    """

    reads_maps: ClassVar[bool] = True

    def __init__(self, temperature: float, weight: float) -> None:
        super().__init__()
        self.temperature, self.weight = positive_temperature(temperature), weight

    def forward(
        self, output: StudentOutput, teacher_logits: Tensor, teacher_maps: Sequence[Tensor]
    ) -> Tensor:
        """Return the scalar loss of ``output`` against the teacher's logits and stage maps."""
        divergence = kl_divergence(output.logits, teacher_logits.detach(), self.temperature)
        constant = [maps.detach() for maps in teacher_maps]
        distance = attention_distance(output.maps or (), constant)
        return divergence + self.weight * teacher_logits.shape[1] * distance
