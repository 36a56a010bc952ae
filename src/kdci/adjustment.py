"""What a confounder dictionary is used for in stage (b)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.kdci.dictionary import ConfounderDictionary
from src.objective.precision import at_least_float32


class Adjustment(nn.Module):
    """Adjusts how the student meets the teacher, given the confounders.

    This one does nothing; each form overrides what it adjusts. The program gives the constructor
    ``dictionary``, ``num_classes`` (K) and ``seed`` by name. Where an adjustment has no strength
    the run must equal that of ``kdci=none`` bit for bit.

    Attributes:
        fuse: W_h ``[K, K]``, part of the student's own last layer; None where it has none.
    """

    fuse: nn.Parameter | None

    def __init__(self, dictionary: ConfounderDictionary, *, num_classes: int, seed: int) -> None:
        super().__init__()
        self.fuse = None

    def load(self, dictionary: ConfounderDictionary) -> None:
        """Take a dictionary in the place of another of its shape."""

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
