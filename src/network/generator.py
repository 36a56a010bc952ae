"""Image generators of the baselines."""

from abc import ABC, abstractmethod
from itertools import pairwise

from torch import Tensor, nn

from src.common.errors import UserError


class ImageGenerator(nn.Module, ABC):
    """A network from noise to images.

    Attributes:
        latent_shape: Shape of one latent, without the batch dimension.
    """

    latent_shape: tuple[int, ...]

    @abstractmethod
    def forward(self, latents: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` of latents ``[B, *latent_shape]``."""


def reinitialise(network: nn.Module) -> None:
    """Weights ~ N(0, 0.02), scales of BatchNorm ~ N(1, 0.02), biases 0; in place."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            centre = 1.0 if isinstance(layer, nn.BatchNorm2d) else 0.0
            nn.init.normal_(layer.weight, centre, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _grid_size(image_size: int, factor: int) -> int:
    """Side of the first feature map, which upsampling multiplies by ``factor``."""
    grid, remainder = divmod(image_size, factor)
    if grid < 1 or remainder:
        raise UserError(
            f"Expected generator `image_size` to be a multiple of {factor}, but got {image_size}"
        )
    return grid


def _projection(latent_dim: int, width: int, grid: int) -> nn.Sequential:
    """Latent vectors ``[B, latent_dim]`` to maps ``[B, width, grid, grid]``."""
    return nn.Sequential(
        nn.Linear(latent_dim, width * grid**2), nn.Unflatten(1, (width, grid, grid))
    )


def _conv(
    in_width: int, out_width: int, *, bias: bool = False, eps: float = 1e-5
) -> list[nn.Module]:
    """3x3 convolution, BN, LeakyReLU."""
    return [
        nn.Conv2d(in_width, out_width, 3, padding=1, bias=bias),
        nn.BatchNorm2d(out_width, eps=eps),
        nn.LeakyReLU(0.2),
    ]


class Generator(ImageGenerator):
    """Generator of CMI, Fast and MosaicKD, and of DAFL as CMI and Fast run it.

    | method | latent_dim | initial_multiplier | blocks |
    |---|---|---|---|
    | CMI, Fast | 256 | 2 | 2 |
    | DAFL in CMI | 512 | 4 | 2 |
    | DAFL in Fast | 512 | 2 | 2 |
    | MosaicKD | 100 | 4 | 2 |
    | CuDFKD, images of 32 pixels | 512 | 4 | 2 |
    | CuDFKD, images of 64 pixels | 1024 | 8 | 3 |

    Its images are pixels in [0, 1]: normalise them before they reach a classifier.

    Args:
        image_size: Height and width of the images, pixels, a multiple of 2^blocks.
        latent_dim: Length of a latent vector.
        base_width: Channels of the last hidden layer.
        initial_multiplier: Channels of the first feature map, in units of ``base_width``.
        blocks: Convolutions that each follow a doubling of the sides; the width halves from one
            to the next.
        channels: Channels of the images.

    Raises:
        UserError: If ``image_size`` is not such a multiple.

    Source: Fang et al., Contrastive Model Inversion for Data-Free Knowledge Distillation,
    IJCAI 2021, arXiv:2105.08584.
    """

    def __init__(
        self,
        *,
        image_size: int,
        latent_dim: int = 256,
        base_width: int = 64,
        initial_multiplier: int = 2,
        blocks: int = 2,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,)
        widths = [initial_multiplier * base_width]
        widths += [2**left * base_width for left in reversed(range(blocks))]
        self.l1 = _projection(latent_dim, widths[0], _grid_size(image_size, 2**blocks))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(widths[0]),
            *(
                layer
                for pair in pairwise(widths)
                for layer in (nn.Upsample(scale_factor=2), *_conv(*pair))
            ),
            nn.Conv2d(base_width, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def parts(self) -> tuple[nn.Sequential, ...]:
        """Four networks, one after another: to the first maps, over two blocks, to pixels."""
        blocks = self.conv_blocks
        return nn.Sequential(self.l1, blocks[:1]), blocks[1:5], blocks[5:9], blocks[9:]

    def forward(self, latents: Tensor) -> Tensor:
        """Pixels in [0, 1], ``[B, C, H, W]``, of latents ``[B, latent_dim]``."""
        pixels: Tensor = self.conv_blocks(self.l1(latents))
        return pixels


class DAFLGenerator(ImageGenerator):
    """DAFL's own generator.

    Its last BN whitens every channel, so its images are in the teacher's normalised input space
    already: normalising them again is wrong.

    Args:
        image_size: Height and width of the images, pixels, a multiple of 4.
        latent_dim: Length of a latent vector.
        base_width: Channels of the last hidden layer; 64 as published.
        channels: Channels of the images.
        eps: Of the hidden BN layers: not a momentum, DAFL's results were made with this large one.

    Raises:
        UserError: If ``image_size`` is not a multiple of 4.

    Source: Chen et al., Data-Free Learning of Student Networks, ICCV 2019, arXiv:1904.01186.
    """

    def __init__(
        self,
        *,
        image_size: int,
        latent_dim: int = 1000,
        base_width: int = 64,
        channels: int = 3,
        eps: float = 0.8,
    ) -> None:
        super().__init__()
        self.latent_shape = (latent_dim,)
        width = 2 * base_width
        self.l1 = _projection(latent_dim, width, _grid_size(image_size, 4))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.Upsample(scale_factor=2),
            *_conv(width, width, bias=True, eps=eps),
            nn.Upsample(scale_factor=2),
            *_conv(width, base_width, bias=True, eps=eps),
            nn.Conv2d(base_width, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Whitened images ``[B, C, H, W]`` of latents ``[B, latent_dim]``."""
        images: Tensor = self.conv_blocks(self.l1(latents))
        return images


class DeepGenerator(ImageGenerator):
    """Fast's generator for ImageNet, from a spatial latent.

    Its images are pixels in [0, 1]: normalise them before they reach a classifier.

    Differs from the authors' code: the linear layer that no forward pass uses is left out.

    Args:
        image_size: Height and width of the images, pixels, a multiple of 16.
        latent_dim: Channels of a latent.
        base_width: Channels of the last hidden layers.
        channels: Channels of the images.

    Raises:
        UserError: If ``image_size`` is not a multiple of 16.

    Source: Fang et al., Up to 100x Faster Data-Free Knowledge Distillation, AAAI 2022,
    arXiv:2112.06253.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        latent_dim: int = 256,
        base_width: int = 64,
        channels: int = 3,
    ) -> None:
        super().__init__()
        grid = _grid_size(image_size, 16)
        self.latent_shape = (latent_dim, grid, grid)
        self.conv_blocks = nn.Sequential(
            *_conv(latent_dim, 2 * base_width),
            nn.Upsample(scale_factor=2),
            *_conv(2 * base_width, 2 * base_width),
            nn.Upsample(scale_factor=2),
            *_conv(2 * base_width, base_width),
            nn.Upsample(scale_factor=2),
            *_conv(base_width, base_width),
            nn.Upsample(scale_factor=2),
            *_conv(base_width, base_width),
            nn.Conv2d(base_width, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        """Pixels in [0, 1], ``[B, C, H, W]``, of latents ``[B, latent_dim, H/16, W/16]``."""
        pixels: Tensor = self.conv_blocks(latents)
        return pixels
