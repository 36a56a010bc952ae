"""The contract of every classification network: ``embed``, then one linear ``head``."""

from abc import ABC, abstractmethod
from typing import ClassVar, cast

from torch import Tensor, nn


class Classifier(nn.Module, ABC):
    """A network whose last layer is linear and can be reached by itself.

    A caller that needs features and logits pays for one pass:
    ``features = network.embed(images)``, then ``logits = network.head(features)``.

    Attributes:
        head_name: Path of the last layer; it differs because published checkpoints differ.
        stage_names: Paths of the modules whose outputs ``[B, C, H, W]`` are its stage maps, in
            the order in which they run; empty where they are not known.
    """

    head_name: ClassVar[str]
    stage_names: tuple[str, ...] = ()

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Penultimate features ``[B, d]`` of normalised images ``[B, 3, H, W]``."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, K]`` of normalised images ``[B, 3, H, W]``."""
        logits: Tensor = self.head(self.embed(images))
        return logits

    @property
    def head(self) -> nn.Linear:
        """The last layer, ``[B, d] -> [B, K]``."""
        return cast(nn.Linear, self.get_submodule(self.head_name))

    @property
    def feature_dim(self) -> int:
        """Width d of the penultimate features."""
        return self.head.in_features
