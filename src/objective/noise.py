"""DFND: distillation from noisily labelled images picked out of an unlabeled pool."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.common.errors import UserError
from src.objective.distillation import StudentOutput, kl_per_sample, positive_temperature
from src.objective.precision import at_least_float32


class NoiseMatrix(nn.Module):
    """Learned label noise Q: row i is the student's class, column j the observed pseudo-label.

    ``Q_ii = a`` is fixed; the rest of row i is ``(1 - a) * softmax(N_i)``, N zero at the start.

    Args:
        num_classes: K >= 2.
        diagonal: a in (0, 1), the accuracy of the teacher that gives the pseudo-labels.

    Raises:
        UserError: If ``num_classes`` or ``diagonal`` is out of range.

    Source: Chen et al., Learning Student Networks in the Wild, CVPR 2021.
    """

    def __init__(self, num_classes: int, diagonal: float) -> None:
        super().__init__()
        if num_classes < 2:
            raise UserError(f"Expected `num_classes` >= 2, but got {num_classes}.")
        if not 0 < diagonal < 1:
            raise UserError(
                f"Expected `diagonal` in (0, 1), but got {diagonal}; give the teacher's accuracy "
                "as a fraction, such as 0.9523."
            )
        self.diagonal = diagonal
        self.off_diagonal = nn.Parameter(torch.zeros(num_classes, num_classes - 1))

    def matrix(self) -> Tensor:
        """Return Q ``[K, K]``; every row sums to 1."""
        num_classes = self.off_diagonal.shape[0]
        noise = (1 - self.diagonal) * F.softmax(at_least_float32(self.off_diagonal), dim=1)
        # Read row by row, K off-diagonal entries lie between one diagonal entry and the next.
        between = noise.reshape(num_classes - 1, num_classes)
        tail = F.pad(between, (0, 1), value=self.diagonal).flatten()
        return F.pad(tail, (1, 0), value=self.diagonal).view(num_classes, num_classes)

    def negative_log_likelihood(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return ``-log r_{i, y_i}``, ``[B]``, where ``r = softmax(logits) Q``.

        Args:
            logits: ``[B, K]``, floating.
            labels: Pseudo-labels y ``[B]``, int64.
        """
        probs = F.softmax(at_least_float32(logits), dim=1)
        # Only column y_i of Q counts, so no matmul: autocast would do that one in bfloat16.
        likelihood = (probs * self.matrix().t()[labels]).sum(dim=1)
        return -likelihood.clamp_min(torch.finfo(likelihood.dtype).tiny).log()


def class_weights(counts: Tensor) -> Tensor:
    """Weights inverse to how often each class was selected, with mean 1 over the classes.

    Args:
        counts: Selected images per pseudo-label ``[K]``, non-negative; one is added to each.

    Returns:
        ``[K]``, float32.

    Source: Chen et al., Learning Student Networks in the Wild, CVPR 2021; first code release.
    """
    rarity = (counts + 1).float().reciprocal()
    return rarity / rarity.mean()


class NoisyDistillationObjective(nn.Module):
    """KL to the teacher plus, through the noise matrix, the NLL of the teacher's hard label.

    ``tau^2 / B * sum_i w_{y_i} KL_i + sum_i w_{y_i} NLL_i / sum_i w_{y_i}``, with y the teacher's
    argmax on this very batch; without class weights both terms are plain means.

    Args:
        num_classes: K >= 2.
        diagonal: a in (0, 1), see ``NoiseMatrix``.
        temperature: tau of the KL term; 4 in the second code release, 2 in the first.
        class_weights: ``[K]`` as ``class_weights`` gives them (first release), or none (second).
        compensate_noise: Whether the NLL, too, sees the compensated prediction.

    Raises:
        UserError: If an argument is out of range, or ``class_weights`` is not ``[K]``.

    Source: Chen et al., Learning Student Networks in the Wild, CVPR 2021.
    Differs from the paper: the authors' figure draws a diagonal entry per class; their code fixes
    a single one, and so does this.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        num_classes: int,
        diagonal: float,
        temperature: float = 4.0,
        class_weights: Tensor | None = None,
        compensate_noise: bool = False,
    ) -> None:
        super().__init__()
        if class_weights is not None and class_weights.shape != (num_classes,):
            raise UserError(
                f"Expected `class_weights` of shape ({num_classes},), one per class, but got "
                f"{tuple(class_weights.shape)}."
            )
        self.temperature = positive_temperature(temperature)
        self.compensate_noise = compensate_noise
        self.noise = NoiseMatrix(num_classes, diagonal)
        self.register_buffer("class_weights", class_weights)

    def forward(self, output: StudentOutput, teacher_logits: Tensor) -> Tensor:
        """Return the scalar loss of ``output`` against ``teacher_logits [B, K]``."""
        teacher_logits = teacher_logits.detach()
        labels = teacher_logits.argmax(dim=1)
        divergence = kl_per_sample(output.logits, teacher_logits, self.temperature)
        noisy_logits = output.logits if self.compensate_noise else output.plain_logits
        nll = self.noise.negative_log_likelihood(noisy_logits, labels)
        if self.class_weights is None:
            return divergence.mean() + nll.mean()
        weights = self.class_weights[labels]
        return (weights * divergence).mean() + (weights * nll).sum() / weights.sum()
