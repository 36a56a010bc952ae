"""MosaicKD's discriminator of local patches."""

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """One real-or-generated logit for every patch of 10x10 pixels, in steps of 4 pixels.

    The patch sizes of the paper's ablation are left out; the main results use this one.

    Args:
        base_width: Channels of the first layer.
        channels: Channels of the images.

    Source: Fang et al., Mosaicking to Distill: Knowledge Distillation from Out-of-Domain Data,
    NeurIPS 2021, arXiv:2110.15094.
    """

    def __init__(self, *, base_width: int = 128, channels: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, base_width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(base_width, 2 * base_width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * base_width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * base_width, 1, 1, bias=False),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Raw logits ``[B, 1, H/4, W/4]`` of normalised images ``[B, C, H, W]``."""
        logits: Tensor = self.layers(images)
        return logits
