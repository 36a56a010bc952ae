"""Slow, literal adversarial terms."""

from torch import Tensor

from tests.reference.distillation import kl, softmax
from tests.reference.sums import total


def decision_disagreement(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """``-tau^2 / B`` times the KL of the samples on which both networks decide alike."""
    loss = 0 * student_logits.sum()
    for student_row, teacher_row in zip(student_logits, teacher_logits, strict=True):
        if int(student_row.argmax()) == int(teacher_row.argmax()):
            loss = loss - temperature**2 * kl(student_row, teacher_row, temperature)
    return loss / len(student_logits)


def reversed_js(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Half KL(M || P) plus half KL(M || Q) at temperature 3, each clamped to [0.01, 0.99]."""
    terms = []
    for student_row, teacher_row in zip(student_logits, teacher_logits, strict=True):
        pairs = zip(softmax(student_row / 3), softmax(teacher_row / 3), strict=True)
        for p, q in pairs:
            m = ((p + q) / 2).clamp(0.01, 0.99)
            p, q = p.clamp(0.01, 0.99), q.clamp(0.01, 0.99)
            terms.append(0.5 * m * (m.log() - p.log()) + 0.5 * m * (m.log() - q.log()))
    return total(terms) / len(student_logits)


def bce(logit: Tensor, target: float) -> Tensor:
    """Binary cross-entropy of one logit."""
    prob = 1 / (1 + (-logit).exp())
    return -target * prob.log() - (1 - target) * (1 - prob).log()


def patch_discriminator(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """Sum over all patches of both batches, divided by twice the fake batch size."""
    fake = total(bce(logit, 0) for logit in fake_logits.flatten())
    real = total(bce(logit, 1) for logit in real_logits.flatten())
    return (fake + real) / (2 * len(fake_logits))


def patch_generator(fake_logits: Tensor) -> Tensor:
    """Sum over all patches, divided by the batch size."""
    return total(bce(logit, 1) for logit in fake_logits.flatten()) / len(fake_logits)
