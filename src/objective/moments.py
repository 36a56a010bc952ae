"""Means and variances of feature maps, in one pass each way."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def channel_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over all but the channels.

    On the CPU by the kernel that BatchNorm counts its own running statistics with, which is many
    times faster than ``torch.var_mean`` on channels_last maps; its sums round in the fifth digit.

    Args:
        maps: ``[B, C, H, W]``, floating, in either memory format.

    Returns:
        Mean and variance ``[C]``, at least float32; once differentiable.
    """
    mean, var = _ChannelMoments.apply(maps)
    return mean, var


def spatial_means(maps: Tensor) -> Tensor:
    """Mean of every map, ``[B, C]``, at least float32, of ``[B, C, H, W]`` in either format."""
    dtype = torch.promote_types(maps.dtype, torch.float32)
    if maps.is_contiguous() or not maps.is_contiguous(memory_format=torch.channels_last):
        return maps.mean(dim=(2, 3), dtype=dtype)
    # As rows of channels: over two dimensions the backward pass would leave the memory format.
    return maps.permute(0, 2, 3, 1).flatten(1, 2).mean(dim=1, dtype=dtype)


class _ChannelMoments(torch.autograd.Function):
    """``d mean = 1 / n`` and ``d var = 2 (x - mean) / n``, as one multiply-add of the maps."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
        if maps.device.type == "cpu":
            mean, var = torch.batch_norm_update_stats(wide, None, None, 0.0)
        else:
            var, mean = torch.var_mean(wide, dim=(0, 2, 3), correction=0)
        ctx.save_for_backward(maps, mean)
        return mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, mean_gradient: Tensor, var_gradient: Tensor) -> Tensor:
        maps, mean = ctx.saved_tensors
        count = maps.numel() // maps.shape[1]
        slope = 2 / count * var_gradient
        offset = mean_gradient / count - slope * mean
        shape = (1, -1, 1, 1)
        gradient = torch.addcmul(offset.view(shape), maps, slope.view(shape))
        return gradient.to(maps.dtype)
