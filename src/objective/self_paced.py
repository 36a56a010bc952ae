"""Self-paced distillation: hard batches count less, and less so the longer the student learns."""

from typing import Literal

import torch
from torch import Tensor, nn

from src.common.distributed import sum_over_ranks, world_size
from src.objective.distillation import (
    StudentOutput,
    kl_per_sample,
    logit_distance_per_sample,
    positive_temperature,
)


def self_paced_weight(loss: Tensor, age: Tensor) -> Tensor:
    """``v = (1 + exp(-lambda)) / (1 + exp(l - lambda))``: 1 at no loss, towards 0 at a large one.

    Args:
        loss: l >= 0, any shape.
        age: lambda, the loss at which the weight is about a half.

    Returns:
        Weights in the shape of ``loss``, constant.

    Source: Li et al., Dynamic Data-Free Knowledge Distillation by Easy-to-Hard Learning Strategy,
    Information Sciences, 2023, arXiv:2208.13648.
    """
    return ((1 + torch.exp(-age)) * torch.sigmoid(age - loss)).detach()


class SelfPacedObjective(nn.Module):
    """``mean_i v_i l_i``, where lambda rises by ``growth`` with every step in train mode.

    Args:
        distance: l of an image: ``l1``, the mean absolute difference of its logits over the
            classes, or ``kl``, the divergence times tau^2.
        temperature: tau > 0, for ``kl``.
        initial_age: lambda of the first step.
        growth: What a step adds to lambda.
        paces: What has a weight of its own: an ``image``, or a ``batch`` by its mean loss.

    Differs from the paper: a ``batch`` has one weight in the released code, where losses are
    averaged before they are weighted; an ``image`` has one in the paper. On several ranks the
    mean is over all of them, not over a rank's share.

    Source: Li et al., Dynamic Data-Free Knowledge Distillation by Easy-to-Hard Learning Strategy,
    Information Sciences, 2023, arXiv:2208.13648.
    """

    steps: Tensor

    def __init__(
        self,
        *,
        distance: Literal["l1", "kl"],
        temperature: float,
        initial_age: float,
        growth: float,
        paces: Literal["batch", "image"] = "batch",
    ) -> None:
        super().__init__()
        self.distance, self.paces = distance, paces
        self.temperature = positive_temperature(temperature)
        self.initial_age, self.growth = initial_age, growth
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, output: StudentOutput, teacher_logits: Tensor) -> Tensor:
        """Return the scalar loss of ``output.logits [B, K]`` against ``teacher_logits [B, K]``."""
        target = teacher_logits.detach()
        if self.distance == "l1":
            losses = logit_distance_per_sample(output.logits, target)
        else:
            losses = kl_per_sample(output.logits, target, self.temperature)
        seen = losses.detach()
        if self.paces == "batch":
            seen = sum_over_ranks(seen.mean()) / world_size()
        age = self.initial_age + self.growth * self.steps.to(losses.dtype)
        if self.training:
            self.steps += 1
        return (self_paced_weight(seen, age) * losses).mean()
