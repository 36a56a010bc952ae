"""The teacher as stages (a) and (b) see it: in eval mode and without gradients, for ever."""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from src.common.files import sha256_tensors
from src.network.classifier import Classifier
from src.network.stages import heard
from src.objective.class_activation import class_slopes


class TeacherOutput(NamedTuple):
    """Logits ``[B, K]`` and penultimate features ``[B, d]``, float32.

    With the maps ``[B, C_l, H_l, W_l]`` of every stage, where they are asked for, and the slopes
    ``[B, C_l]`` of the predicted class at them.
    """

    logits: Tensor
    features: Tensor
    maps: tuple[Tensor, ...] | None = None
    slopes: tuple[Tensor, ...] | None = None


class FrozenTeacher(nn.Module):
    """A classifier whose parameters never require a gradient and whose mode never changes.

    Gradients still flow to the images, which is what synthesis needs.

    Args:
        network: Trained classifier; taken over, not copied.
        acc1: Top-1 accuracy on the test split, percent, if measured.
    """

    def __init__(self, network: Classifier, acc1: float | None = None) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.acc1 = acc1

    def train(self, mode: bool = True) -> Self:
        """Ignored: Lightning and ``parent.train()`` must not move the BN statistics."""
        return super().train(False)

    def forward(self, images: Tensor, with_maps: bool = False) -> TeacherOutput:
        """Classify ``images`` ``[B, C, H, W]``, already normalised; keep the stage maps if asked.

        Logits and features are float32 under autocast, too.
        """
        with heard(self.network, self.network.stage_names if with_maps else ()) as maps:
            features = self.network.embed(images).float()
        logits = self.network.logits(features)
        return TeacherOutput(logits, features, tuple(maps) if with_maps else None)

    def explain(self, images: Tensor) -> TeacherOutput:
        """Classify, with stage maps and slopes, for another pass back; all without gradient.

        Args:
            images: ``[B, C, H, W]``, already normalised.
        """
        with torch.enable_grad():
            # The weights are frozen, so the graph has to begin at the images.
            said = self(images.detach().requires_grad_(), with_maps=True)
            slopes = class_slopes(said.logits, said.maps, said.logits.argmax(1))
        maps = tuple(each.detach() for each in said.maps)
        return TeacherOutput(said.logits.detach(), said.features.detach(), maps, slopes)

    def fingerprint(self) -> str:
        """SHA-256 of all parameters and buffers."""
        return sha256_tensors(*self.network.state_dict().values())
