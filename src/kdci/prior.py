"""Backdoor adjustment by a prior on the logits."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from src.kdci.adjustment import Adjustment
from src.kdci.dictionary import ConfounderDictionary
from src.kdci.unevenness import Auto, class_shares, strength_of
from src.objective.precision import at_least_float32

_PSEUDO_COUNT = 1.0  # of every class, so that one without samples has a logarithm


class PriorAdjustment(Adjustment):
    """Adds the log prior of the substitution data to the student's logits while it trains.

    ``s~_c = s_c + strength * (log P(c) - mean_k log P(k))``: the student alone then learns the
    teacher's prediction without the prior, so that classes that were rare in stage (a) are not
    rare in what is shipped. Nothing is learned here.

    Args:
        dictionary: The confounders and, of every one, the teacher's predicted classes.
        num_classes: K.
        strength: Factor; 0 is the vanilla student, bit for bit; ``auto`` follows the unevenness,
            see :func:`src.kdci.unevenness.strength_of`.
        seed: Not used.

    Source: Menon et al., Long-tail learning via logit adjustment, ICLR 2021, arXiv:2007.07314
    (of labels; here of the teacher's predictions). Not in the KDCI paper.
    """

    log_prior: Tensor

    def __init__(
        self,
        dictionary: ConfounderDictionary,
        *,
        num_classes: int,
        seed: int,
        strength: Annotated[float, Field(ge=0)] | Auto = "auto",
    ) -> None:
        super().__init__(dictionary, num_classes=num_classes, seed=seed)
        self.chosen = strength
        self.register_buffer("log_prior", torch.zeros(num_classes))
        self.load(dictionary)

    @torch.no_grad()
    def load(self, dictionary: ConfounderDictionary) -> None:
        """Take the prior of a dictionary."""
        super().load(dictionary)
        total = float(dictionary.counts.sum())
        shares = class_shares(dictionary)
        smoothed = (shares * total + _PSEUDO_COUNT) / (total + _PSEUDO_COUNT * len(shares))
        self.log_prior.copy_(smoothed.log() - smoothed.log().mean())
        self.facts = {"strength": strength_of(self.chosen, dictionary)}

    def forward(self, logits: Tensor) -> Tensor:
        """Adjusted logits ``[B, K]``, at least float32."""
        return at_least_float32(logits) + self.facts["strength"] * self.log_prior
