"""Terms that pit the substitution images against the student or a discriminator.

Gradients reach the images through the teacher *and* the student; no function here detaches.
"""

from torch import Tensor
from torch.nn import functional as F

from src.objective.distillation import kl_divergence, kl_per_sample
from src.objective.precision import at_least_float32


def disagreement_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Reward for teacher and student differing, ``-KL(T || S)`` at temperature 1.

    Args:
        student_logits: ``[B, K]``, floating.
        teacher_logits: ``[B, K]``, floating.

    Returns:
        Scalar <= 0, nats, averaged over the batch.

    Source: Fang et al., Mosaicking to Distill, NeurIPS 2021, arXiv:2110.15094, Eq. 7.
    """
    return -kl_divergence(student_logits, teacher_logits, temperature=1.0)


def decision_disagreement_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """Reward for differing while the decisions agree, ``-1/B sum_i m_i KL_i(T || S)``.

    ``m_i = 1`` where both networks have the same argmax. The divisor is B, not the mask's sum.

    Args:
        student_logits: ``[B, K]``, floating.
        teacher_logits: ``[B, K]``, floating.
        temperature: tau > 0 of the divergence.

    Returns:
        Scalar <= 0, nats times tau^2.

    Source: Fang et al., Contrastive Model Inversion, IJCAI 2021, arXiv:2105.08584; Fang et al., Up
    to 100x Faster Data-free Knowledge Distillation, AAAI 2022, arXiv:2112.06253.
    """
    divergence = kl_per_sample(student_logits, teacher_logits, temperature)
    agree = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
    return -(agree * divergence).mean()


def reversed_js_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 3.0,
    floor: float = 0.01,
) -> Tensor:
    """Clamped divergence ``(KL(M || P) + KL(M || Q)) / 2`` from the mixture ``M = (P + Q) / 2``.

    P is the student, Q the teacher. M is taken before, and all three are clamped to
    ``[floor, 1 - floor]``, which stops the gradient of every class below the floor. The loss is
    ``-js``, or ``1 - js.clamp(0, 1)`` in the authors' own script.

    Args:
        student_logits: ``[B, K]``, floating.
        teacher_logits: ``[B, K]``, floating.
        temperature: tau > 0; no factor tau^2.
        floor: Lower clamp of probabilities, in (0, 0.5).

    Returns:
        Scalar, nats, averaged over the batch; not bounded by ln 2.

    Source: Yin et al., Dreaming to Distill, CVPR 2020, arXiv:1912.08795.
    Differs from the paper: its Jensen-Shannon divergence is ``KL(P || M)`` and ``KL(Q || M)``,
    unclamped; the released code reverses both.
    """
    student_probs = F.softmax(at_least_float32(student_logits) / temperature, dim=1)
    teacher_probs = F.softmax(at_least_float32(teacher_logits) / temperature, dim=1)
    mixture = ((student_probs + teacher_probs) / 2).clamp(floor, 1 - floor)
    mean_log_probs = (
        student_probs.clamp(floor, 1 - floor).log() + teacher_probs.clamp(floor, 1 - floor).log()
    ) / 2
    return (mixture * (mixture.log() - mean_log_probs)).sum(dim=1).mean()


def patch_discriminator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Binary cross-entropy of a patch discriminator: fake is 0, real is 1.

    ``(sum_{i,u} bce(fake, 0) + sum_{i,u} bce(real, 1)) / (2B)``: summed over positions u, and B is
    the fake batch size even where the last real batch is shorter.

    Args:
        fake_logits: ``[B, 1, h, w]`` of the generated images.
        real_logits: ``[B', 1, h, w]`` of the pool's images.

    Returns:
        Scalar, nats; ``h * w * ln 2`` at chance.

    Source: Fang et al., Mosaicking to Distill, NeurIPS 2021, arXiv:2110.15094.
    """
    fake = F.logsigmoid(-at_least_float32(fake_logits)).sum()
    real = F.logsigmoid(at_least_float32(real_logits)).sum()
    return -(fake + real) / (2 * fake_logits.shape[0])


def patch_generator_loss(fake_logits: Tensor) -> Tensor:
    """Non-saturating reward for patches that look real, ``sum_{i,u} bce(fake, 1) / B``.

    Args:
        fake_logits: ``[B, 1, h, w]`` of the generated images.

    Returns:
        Scalar, nats; ``h * w * ln 2`` at chance.

    Source: Fang et al., Mosaicking to Distill, NeurIPS 2021, arXiv:2110.15094, Eq. 3.
    """
    return -F.logsigmoid(at_least_float32(fake_logits)).sum() / fake_logits.shape[0]
