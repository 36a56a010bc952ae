"""The contract of every classification network: ``embed``, then one linear ``head``."""

from abc import ABC, abstractmethod
from typing import ClassVar, cast

import torch
from torch import Tensor, nn


def is_under_autocast(tensor: Tensor) -> bool:
    """Whether what is computed of it is narrowed; for meta tensors torch has no answer."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


class Classifier(nn.Module, ABC):
    """A network whose last layer is linear and can be reached by itself.

    A caller that needs features and logits pays for one pass:
    ``features = network.embed(images)``, then ``logits = network.logits(features)``.

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
        return self.logits(self.embed(images))

    def logits(self, features: Tensor) -> Tensor:
        """What the last layer makes ``[B, K]`` of features ``[B, d]``, in its own dtype.

        Under autocast, too: in bfloat16, logits have three significant digits, too few for a
        dictionary of distinct predictions, and for what tells student and teacher apart.
        """
        if not is_under_autocast(features):
            return self.head(features)  # type: ignore[no-any-return]
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.to(self.head.weight.dtype))  # type: ignore[no-any-return]

    @property
    def head(self) -> nn.Linear:
        """The last layer, ``[B, d] -> [B, K]``."""
        return cast(nn.Linear, self.get_submodule(self.head_name))

    @property
    def feature_dim(self) -> int:
        """Width d of the penultimate features."""
        return self.head.in_features
