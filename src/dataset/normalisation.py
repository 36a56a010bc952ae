"""From pixels to the teacher's input space and back."""

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

if TYPE_CHECKING:  # a deployed student normalises, but has no data set
    from src.dataset.contract import ImageSpec


class Normalisation(nn.Module):
    """``(u - mean) / std`` per channel, for pixels ``[B, C, H, W]`` in [0, 1].

    Args:
        mean: Per-channel mean in [0, 1].
        std: Per-channel standard deviation in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    @classmethod
    def of(cls, spec: "ImageSpec") -> Self:
        """The normalisation a teacher of this data set expects."""
        return cls(spec.mean, spec.std)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] to normalised images."""
        return (pixels - self.mean) / self.std

    def from_uint8(self, images: Tensor) -> Tensor:
        """Pixels in 0..255 to normalised images, float32."""
        return (images.float() / 255 - self.mean) / self.std

    def inverse(self, images: Tensor) -> Tensor:
        """Normalised images to pixels, not clipped."""
        return images * self.std + self.mean

    def valid_range(self) -> tuple[Tensor, Tensor]:
        """Per-channel bounds of the normalised space, ``[-m/s, (1-m)/s]``."""
        return -self.mean / self.std, (1 - self.mean) / self.std
