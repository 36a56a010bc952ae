"""Knowledge distillation: the student's prediction meets the teacher's."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from src.common.errors import UserError
from src.objective.precision import at_least_float32


class StudentOutput(NamedTuple):
    """What a student hands to a distillation objective.

    Attributes:
        logits: ``[B, K]``, what meets the teacher: compensated where KDCI is on.
        plain_logits: ``[B, K]``, of the student that is shipped; the same tensor without KDCI.
        maps: ``[B, C_l, H_l, W_l]`` of every stage, always the plain student's; None unless the
            objective ``reads_maps``.
        head: Weights ``[K, d]`` of the student's last layer, where there are maps.
    """

    logits: Tensor
    plain_logits: Tensor
    maps: tuple[Tensor, ...] | None = None
    head: Tensor | None = None


def reads_maps(objective: nn.Module) -> bool:
    """Whether an objective asks for stage maps, by a class attribute ``reads_maps = True``.

    It is then called with those of the teacher, too: ``(output, teacher_logits, teacher_maps)``.
    """
    return bool(getattr(objective, "reads_maps", False))


def reads_slopes(objective: nn.Module) -> bool:
    """Whether one that ``reads_maps`` asks for slopes, too, by ``reads_slopes = True``.

    It is then called with those of the teacher as a fourth argument: of every stage ``[B, C_l]``,
    see :func:`src.objective.class_activation.class_slopes`, for the class that it predicts.
    """
    return bool(getattr(objective, "reads_slopes", False))


def kl_per_sample(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Divergence of each sample, ``tau^2 * sum_c p_T (log p_T - log p_S)`` at temperature tau.

    Gradients reach both arguments; detach the one that shall stay constant.

    Args:
        student_logits: ``[B, K]``, floating.
        teacher_logits: ``[B, K]``, floating.
        temperature: tau > 0, divides both logits.

    Returns:
        ``[B]``, nats times tau^2, at least float32.
    """
    student_log_probs = F.log_softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher_log_probs = F.log_softmax(at_least_float32(teacher_logits) / temperature, dim=1)
    gap = teacher_log_probs - student_log_probs
    return temperature**2 * (teacher_log_probs.exp() * gap).sum(dim=1)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Temperature-scaled KL(T || S): summed over classes, averaged over the batch, times tau^2.

    Gradients reach both arguments; detach the one that shall stay constant.

    Args:
        student_logits: ``[B, K]``, floating.
        teacher_logits: ``[B, K]``, floating.
        temperature: tau > 0.

    Returns:
        Scalar, at least float32.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.
    """
    return kl_per_sample(student_logits, teacher_logits, temperature).mean()


def logit_distance(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean absolute difference of the logits ``[B, K]``, over the batch and the classes.

    Gradients reach both arguments; detach the one that shall stay constant.

    Source: Fang et al., Data-Free Adversarial Distillation, 2019, arXiv:1912.11006.
    """
    return F.l1_loss(at_least_float32(student_logits), at_least_float32(teacher_logits))


def logit_distance_per_sample(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The same of each sample, ``[B]``: over the classes alone."""
    gap = at_least_float32(student_logits) - at_least_float32(teacher_logits)
    return gap.abs().mean(dim=1)


class DistillationObjective(nn.Module):
    """The default objective of stage (b): temperature-scaled KL, the teacher held constant.

    Args:
        temperature: tau > 0.

    Raises:
        UserError: If ``temperature`` is not positive.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = positive_temperature(temperature)

    def forward(self, output: StudentOutput, teacher_logits: Tensor) -> Tensor:
        """Return the scalar loss of ``output.logits [B, K]`` against ``teacher_logits [B, K]``."""
        return kl_divergence(output.logits, teacher_logits.detach(), self.temperature)


class LogitDistanceObjective(nn.Module):
    """The mean absolute difference of the logits, the teacher held constant.

    Source: Fang et al., Data-Free Adversarial Distillation, 2019, arXiv:1912.11006.
    """

    def forward(self, output: StudentOutput, teacher_logits: Tensor) -> Tensor:
        """Return the scalar loss of ``output.logits [B, K]`` against ``teacher_logits [B, K]``."""
        return logit_distance(output.logits, teacher_logits.detach())


def positive_temperature(temperature: float) -> float:
    """Return ``temperature`` unchanged, or raise a ``UserError`` if it is not positive."""
    if not temperature > 0:
        raise UserError(
            f"Expected `temperature` > 0, but got {temperature}; 1 leaves the logits as they are."
        )
    return temperature
