"""Backdoor adjustment by standardisation: the average of predictions within strata."""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from src.common.seeding import generator
from src.kdci.adjustment import Adjustment
from src.kdci.dictionary import ConfounderDictionary
from src.kdci.unevenness import Auto, strength_of
from src.objective.precision import at_least_float32


class Standardisation(Adjustment):
    """The adjustment formula itself: ``P(S | do(X)) = sum_i P(z_i) softmax(s + alpha W_g z_i)``.

    What the paper approximates by moving the expectation inside the softmax is summed here, over
    all N prototypes: ``[B, N, K]`` numbers a step. There is no attention: strata are weighted by
    their prior alone. The logarithms have the mean of the student's logits, which a softmax does
    not see, but a distance of logits does.

    Args:
        dictionary: The confounders: N prototypes of width d.
        num_classes: K.
        strength: alpha; 0 is the vanilla student, bit for bit; ``auto`` follows the unevenness,
            see :func:`src.kdci.unevenness.strength_of`.
        seed: Seed of the initialisation of W_g (PyTorch's Linear, from its own generator).

    Source: the adjustment formula of Wang et al., De-confounded Data-free Knowledge Distillation
    for Handling Distribution Shifts, CVPR 2024, arXiv:2403.19539; this estimator is not in it.
    """

    def __init__(
        self,
        dictionary: ConfounderDictionary,
        *,
        num_classes: int,
        seed: int,
        strength: Annotated[float, Field(ge=0)] | Auto = 1.0,
    ) -> None:
        super().__init__(dictionary, num_classes=num_classes, seed=seed)
        self.chosen = strength
        weight = torch.empty(num_classes, dictionary.prototypes.shape[1])
        draws = generator("cpu", seed, "standardisation")
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=draws)
        self.project = nn.Parameter(weight)
        self.load(dictionary)

    def load(self, dictionary: ConfounderDictionary) -> None:
        """Copy a dictionary in, in the place of another of its shape."""
        super().load(dictionary)
        self.facts = {"strength": strength_of(self.chosen, dictionary)}

    def forward(self, logits: Tensor) -> Tensor:
        """Logits ``[B, K]`` of the averaged prediction, of the mean of ``logits``.

        At least float32.
        """
        logits = at_least_float32(logits)
        if self.facts["strength"] == 0:
            return logits + 0 * self.project.sum()  # ranks wait for every parameter's gradient
        with torch.autocast(logits.device.type, enabled=False):
            shifts = self.facts["strength"] * F.linear(self.prototypes, self.project)
            within = F.log_softmax(logits[:, None] + shifts, dim=2)
            mixed = torch.logsumexp(within + self.prior.log()[:, None], dim=1)
            return mixed - mixed.mean(1, keepdim=True) + logits.mean(1, keepdim=True)
