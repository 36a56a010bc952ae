"""Random geometric augmentation of whole batches, on the images' device and differentiable.

Every draw comes from the generator passed in, on that generator's device. Nothing here waits for
the device, so all of it may stand in an inner loop.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError
from torch import Generator, Tensor
from torch.nn import functional as F


def _require_ascending(areas: tuple[float, float]) -> tuple[float, float]:
    if not 0 < areas[0] <= areas[1] <= 1:
        raise PydanticCustomError(
            "areas", "expected [least, greatest], 0 < least <= greatest <= 1"
        )
    return areas


Areas = Annotated[tuple[float, float], AfterValidator(_require_ascending)]
"""Least and greatest area of a crop, as fractions of the image; checked in a constructor."""

_CROP_RATIO = (3 / 4, 4 / 3)
_CROP_TRIES = 10


@dataclass(frozen=True)
class Augmentation:
    """A training transform: a random crop, then perhaps a mirroring; by default neither.

    Attributes:
        padding: Black pixels added on each side before a crop of the old size is taken.
        flip_probability: Chance of mirroring left to right, in [0, 1].
        scale: Least and greatest area of a random resized crop, as fractions of the image, which
            then takes the place of the padded crop.
    """

    padding: int = 0
    flip_probability: float = 0.0
    scale: tuple[float, float] | None = None

    @property
    def is_identity(self) -> bool:
        """Whether images stay as they are."""
        return self == Augmentation()

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Transform square ``[B, C, H, H]``, any dtype; see the functions below."""
        if self.is_identity:
            return images
        if self.scale is None:
            return random_crop_flip(images, self.padding, self.flip_probability, generator)
        size = images.shape[-1]
        cropped = random_resized_crop(images, size, self.scale, _CROP_RATIO, generator)
        return random_crop_flip(cropped, 0, self.flip_probability, generator)


def random_crop_flip(
    images: Tensor, padding: int, flip_probability: float, generator: Generator
) -> Tensor:
    """Crop each image at random out of its zero-padded self, then perhaps mirror it.

    Args:
        images: ``[B, C, H, W]``, any dtype.
        padding: Black pixels added on each side; 0 leaves only the mirroring.
        flip_probability: Chance of mirroring left to right, in [0, 1].
        generator: Source of all draws.

    Returns:
        ``[B, C, H, W]``, same dtype and memory format; pixels cropped away get zero gradient.
    """
    batch, _, height, width = images.shape
    draws = _uniform((3, batch, 1), generator, images.device)
    top, left = (draws[:2] * (2 * padding + 1)).long()
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    columns = torch.where(draws[2] < flip_probability, columns.flip(1), columns)
    return _take_pixels(F.pad(images, (padding,) * 4), rows, columns)


def random_resized_crop(
    images: Tensor,
    size: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: Generator,
) -> Tensor:
    """Cut a random box out of each image and resize it bilinearly to a square.

    Boxes have whole pixels as sides, corners are aligned and nothing is antialiased, as in
    kornia's ``RandomResizedCrop``. Of ten tries the first box that fits is taken; if none does,
    the largest box of an allowed ratio.

    Args:
        images: ``[B, C, H, W]``, any dtype.
        size: Height and width of the result, pixels.
        scale: Least and greatest area of the box, as fractions of ``H * W``.
        ratio: Least and greatest width over height of the box.
        generator: Source of all draws.

    Returns:
        ``[B, C, size, size]``, same dtype; integers are rounded.
    """
    height, width = images.shape[-2:]
    draws = _uniform((4, len(images), _CROP_TRIES), generator, images.device)
    pixels = images.to(torch.promote_types(images.dtype, torch.float32))
    boxes = _boxes(draws, height, width, scale, ratio).to(pixels.dtype)
    top, left, box_height, box_width = boxes
    # Autocast would interpolate in bfloat16, which is coarser than 8 bits of colour.
    with torch.autocast(images.device.type, enabled=False):
        down = _interpolation(top, box_height, height, size).unsqueeze(1)
        across = _interpolation(left, box_width, width, size).unsqueeze(1)
        resized = down @ pixels @ across.mT
    return (resized if images.is_floating_point() else resized.round()).to(images.dtype)


def roll_flip(
    images: Tensor, max_shift: int, flip_probability: float, generator: Generator
) -> Tensor:
    """Shift the whole batch around its borders by one random offset, then perhaps mirror all.

    Args:
        images: ``[B, C, H, W]``, any dtype.
        max_shift: Greatest shift per axis, pixels, either way.
        flip_probability: Chance of mirroring left to right, in [0, 1].
        generator: Source of all draws.

    Returns:
        ``[B, C, H, W]``, same dtype and memory format.
    """
    batch, _, height, width = images.shape
    draws = _uniform((3, 1), generator, images.device)
    down, right = (draws[:2] * (2 * max_shift + 1)).long() - max_shift
    rows = (torch.arange(height, device=images.device) - down) % height
    columns = (torch.arange(width, device=images.device) - right) % width
    columns = torch.where(draws[2] < flip_probability, columns.flip(0), columns)
    return _take_pixels(images, rows.expand(batch, -1), columns.expand(batch, -1))


def _uniform(shape: tuple[int, ...], generator: Generator, device: torch.device) -> Tensor:
    """Draw float32 numbers in [0, 1) where the generator is, and bring them to ``device``."""
    draws = torch.rand(shape, generator=generator, device=generator.device)
    # A blocking copy would wait for all that the device still has to do.
    return draws.to(device, non_blocking=device.type == "cuda")


def _take_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Compose ``[B, C, h, w]`` of the images' ``rows [B, h]`` and ``columns [B, w]``."""
    batch, channels, height, width = images.shape
    # Two paths, as either is twice as slow on the other's memory layout. One channel reads both
    # ways and takes the second.
    channels_last = images.stride(1) == 1 and not images.is_contiguous()
    if channels_last:
        rows = rows + height * torch.arange(batch, device=images.device).unsqueeze(1)
    source = (width * rows).unsqueeze(2) + columns.unsqueeze(1)
    if channels_last:
        pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)
        taken = pixels.index_select(0, source.flatten())
        return taken.view(*source.shape, channels).permute(0, 3, 1, 2)
    flat = source.flatten(1).unsqueeze(1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, flat).view(batch, channels, *source.shape[1:])


def _boxes(
    draws: Tensor,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """Turn draws ``[4, B, tries]`` into top, left, height and width ``[4, B]``, whole pixels."""
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    # Ratios are drawn uniformly in their logarithm: 2 is as likely as 1/2.
    ratios = ratio[0] * (ratio[1] / ratio[0]) ** draws[1]
    heights, widths = (area / ratios).sqrt().round(), (area * ratios).sqrt().round()
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first = fits.int().argmax(dim=1, keepdim=True)
    any_fits = fits.any(dim=1)
    tallest, widest = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    box_height = torch.where(any_fits, heights.gather(1, first).squeeze(1), tallest)
    box_width = torch.where(any_fits, widths.gather(1, first).squeeze(1), widest)
    top = (draws[2, :, 0] * (height - box_height + 1)).floor()
    left = (draws[3, :, 0] * (width - box_width + 1)).floor()
    return torch.stack([top, left, box_height, box_width])


def _interpolation(start: Tensor, length: Tensor, size_in: int, size_out: int) -> Tensor:
    """Weights ``[B, size_out, size_in]`` that resize ``length`` pixels from ``start [B]`` on."""
    steps = torch.linspace(0, 1, size_out, dtype=start.dtype, device=start.device)
    positions = start.unsqueeze(1) + (length - 1).unsqueeze(1) * steps
    pixels = torch.arange(size_in, device=start.device)
    return (1 - (positions.unsqueeze(2) - pixels).abs()).clamp_min(0)
