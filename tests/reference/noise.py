"""Slow, literal DFND: the matrix entry by entry, the objective sample by sample."""

import torch
from torch import Tensor

from tests.reference.distillation import kl, softmax
from tests.reference.sums import total


def noise_matrix(parameter: Tensor, diagonal: float) -> Tensor:
    """Q from N ``[K, K - 1]``, laid out in order while skipping the diagonal."""
    rows = []
    for i, row in enumerate(parameter):
        probs = [(1 - diagonal) * p for p in softmax(row)]
        probs.insert(i, torch.tensor(diagonal, dtype=parameter.dtype))
        rows.append(torch.stack(probs))
    return torch.stack(rows)


def noisy_distillation(
    logits: Tensor,
    noisy_logits: Tensor,
    teacher_logits: Tensor,
    parameter: Tensor,
    diagonal: float,
    temperature: float,
    weights: list[float] | None,
) -> Tensor:
    """KL to the teacher plus NLL of its argmax through Q; weighted as in the first release."""
    matrix = noise_matrix(parameter, diagonal)
    num_classes = len(matrix)
    divergences, errors, sample_weights = [], [], []
    for row, noisy_row, teacher_row in zip(logits, noisy_logits, teacher_logits, strict=True):
        label = int(teacher_row.argmax())
        weight = 1.0 if weights is None else weights[label]
        probs = softmax(noisy_row)
        likelihood = total(probs[k] * matrix[k, label] for k in range(num_classes))
        divergences.append(weight * kl(row, teacher_row.detach(), temperature))
        errors.append(-weight * likelihood.log())
        sample_weights.append(weight)
    loss = temperature**2 * total(divergences) / len(logits)
    return loss + total(errors) / sum(sample_weights)


def class_weights(counts: list[int]) -> list[float]:
    """``w_c = K (1 / pi_c) / sum_k (1 / pi_k)`` with ``pi`` the shares of ``1 + count``."""
    numbers = [1 + count for count in counts]
    inverse = [sum(numbers) / number for number in numbers]
    return [len(counts) * value / sum(inverse) for value in inverse]
