"""Slow, literal distillation losses: one sample, one class at a time."""

from torch import Tensor

from tests.reference.sums import total


def softmax(row: Tensor) -> list[Tensor]:
    """Probabilities of one row of logits."""
    exponentials = [(logit - row.max().detach()).exp() for logit in row]
    return [exponential / total(exponentials) for exponential in exponentials]


def kl(student_row: Tensor, teacher_row: Tensor, temperature: float) -> Tensor:
    """KL(T || S) of one sample, without the factor tau^2."""
    teacher = softmax(teacher_row / temperature)
    student = softmax(student_row / temperature)
    return total(t * (t.log() - s.log()) for t, s in zip(teacher, student, strict=True))


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """``tau^2 / B`` times the sum over samples."""
    rows = zip(student_logits, teacher_logits, strict=True)
    return temperature**2 * total(kl(s, t, temperature) for s, t in rows) / len(student_logits)


def logit_distance(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The sum of the absolute differences of all entries, divided by how many there are."""
    pairs = zip(student_logits.flatten(), teacher_logits.flatten(), strict=True)
    return total((s - t).abs() for s, t in pairs) / student_logits.numel()
