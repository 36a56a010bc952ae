"""Image grids as PNG files, with a caption where the images ask for an attribution."""

import math
import textwrap
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

from src.common.files import atomic_write

_MIN_WIDTH = 384  # pixels; 8x8 digits would otherwise be a thumbnail without room for a caption
_FONT_SIZE = 12
_LINE_HEIGHT = 16
_MARGIN = 4


def save_image_grid(images: Tensor, path: Path, columns: int, caption: str | None = None) -> None:
    """Write ``images`` as one PNG, row by row; small images are enlarged by a whole factor.

    Args:
        images: ``[N, C, H, W]`` uint8, one or three channels, N >= 1, on any device.
        path: Where the PNG goes; replaced atomically.
        columns: Images per row, at least 1.
        caption: Text under the grid, for instance the attribution of the source photographs.

    Raises:
        ValueError: If ``images`` is not such a batch.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or 0 in images.shape:
        raise ValueError(
            "Expected `images` [N, C, H, W] uint8 with N >= 1, "
            f"but got {list(images.shape)} {images.dtype}"
        )
    columns = min(columns, len(images))
    factor = math.ceil(_MIN_WIDTH / (columns * images.shape[-1]))
    enlarged = images.cpu().repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    grid = make_grid(enlarged, nrow=columns, padding=2, pad_value=255)
    picture = Image.fromarray(grid.permute(1, 2, 0).contiguous().numpy())
    if caption:
        picture = _with_caption(picture, caption)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")


def _with_caption(picture: Image.Image, caption: str) -> Image.Image:
    font = ImageFont.load_default(_FONT_SIZE)
    per_line = max(1, int((picture.width - 2 * _MARGIN) / font.getlength("m")))
    lines = textwrap.wrap(caption, per_line)
    height = picture.height + len(lines) * _LINE_HEIGHT + 2 * _MARGIN
    canvas = Image.new("RGB", (picture.width, height), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        position = (_MARGIN, picture.height + _MARGIN + number * _LINE_HEIGHT)
        draw.text(position, line, fill="black", font=font)
    return canvas
