"""What a confounder dictionary is used for in stage (b)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.common.errors import UserError
from src.kdci.dictionary import ConfounderDictionary
from src.objective.precision import at_least_float32


class Adjustment(nn.Module):
    """Adjusts how the student meets the teacher, given the confounders.

    This one does nothing; each form overrides what it adjusts. The program gives the constructor
    ``dictionary``, ``num_classes`` (K) and ``seed`` by name. Where an adjustment has no strength
    the run must equal that of ``kdci=none`` bit for bit.

    Attributes:
        prototypes: z_i ``[N, d]`` of the dictionary that it was given last.
        prior: P(z_i) ``[N]`` of it.
        fuse: W_h ``[K, K]``, part of the student's own last layer; None where it has none.
        facts: What it has found for itself, such as an automatic strength; for the record.
    """

    prototypes: Tensor
    prior: Tensor
    fuse: nn.Parameter | None
    facts: dict[str, float]

    def __init__(self, dictionary: ConfounderDictionary, *, num_classes: int, seed: int) -> None:
        super().__init__()
        self.fuse, self.facts = None, {}
        self.register_buffer("prototypes", dictionary.prototypes.to(torch.float32, copy=True))
        self.register_buffer("prior", dictionary.prior.to(torch.float32, copy=True))

    @torch.no_grad()
    def load(self, dictionary: ConfounderDictionary) -> None:
        """Take a dictionary in the place of another of its shape.

        Raises:
            ValueError: If its shape is not the one this module was built for.
        """
        if dictionary.prototypes.shape != self.prototypes.shape:
            raise ValueError(
                f"Expected prototypes of shape {tuple(self.prototypes.shape)}, "
                f"but got {tuple(dictionary.prototypes.shape)}"
            )
        self.prototypes.copy_(dictionary.prototypes)
        self.prior.copy_(dictionary.prior)

    def get_extra_state(self) -> dict[str, Any]:
        """Its facts, which follow from a dictionary that may not be there when a fit goes on."""
        return dict(self.facts)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue with them."""
        self.facts = dict(state)

    def weights(self, teacher_logits: Tensor) -> Tensor | None:
        """Weights ``[B]`` in (0, 1] by which samples of teacher logits ``[B, K]`` are drawn.

        None where all are drawn alike.
        """
        return None

    def weights_within(self, banks: Sequence[Tensor]) -> list[Tensor] | None:
        """The same of all samples ``[M_b, K]`` of each bank, which has a fixed share of a batch.

        Called on all ranks, each with its own samples.
        """
        weights = self.weights(torch.cat([*banks]))
        return None if weights is None else [*weights.split([len(bank) for bank in banks])]

    @property
    def changes_predictions(self) -> bool:
        """Whether what meets the teacher is another prediction than the student's own."""
        return type(self).forward is not Adjustment.forward

    def forward(self, logits: Tensor) -> Tensor:
        """What meets the teacher ``[B, K]``, of the student's logits ``[B, K]`` before W_h."""
        return self.plain(logits)

    def plain(self, logits: Tensor) -> Tensor:
        """The student's own prediction ``W_h s`` ``[B, K]``, as evaluated and shipped.

        At least float32, also under autocast: validation runs under it, the shipped layer not.
        """
        if self.fuse is None:
            return logits
        with torch.autocast(logits.device.type, enabled=False):
            return F.linear(at_least_float32(logits), self.fuse)


def require_probabilities(weights: Tensor, adjustment: Adjustment) -> None:
    """Check the weights that an adjustment gave.

    Raises:
        UserError: If they are not all in (0, 1].
    """
    if not ((weights > 0) & (weights <= 1)).all():
        raise UserError(
            "Expected weights in (0, 1] of kdci.adjustment, but "
            f"{type(adjustment).__name__} gave {float(weights.min()):.3g} to "
            f"{float(weights.max()):.3g}; divide them by their maximum"
        )
