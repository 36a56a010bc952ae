"""Slow, literal crops: one image at a time, by slicing."""

import torch
from torch import Tensor
from torch.nn import functional as F


def crop_flip(image: Tensor, padding: int, top: int, left: int, mirrored: bool) -> Tensor:
    """Slice ``[C, H, W]`` out of the zero-padded image, then mirror it."""
    _, height, width = image.shape
    crop = F.pad(image, (padding,) * 4)[:, top : top + height, left : left + width]
    return crop.flip(2) if mirrored else crop


def crop_resize(images: Tensor, boxes: list[list[int]], size: int) -> Tensor:
    """Slice each box ``(top, left, height, width)`` and resize it with aligned corners."""
    crops = [
        F.interpolate(
            image[None, :, top : top + height, left : left + width],
            size=(size, size),
            mode="bilinear",
            align_corners=True,
        )
        for image, (top, left, height, width) in zip(images, boxes, strict=True)
    ]
    return torch.cat(crops)
