"""BatchNorm whose statistics in train mode are of the batches of all ranks."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from src.common.distributed import world_size
from src.common.errors import UserError


class _SumOverRanks(torch.autograd.Function):
    """Sum of a tensor over ranks; its gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return cast("Tensor", _SumOverRanks.apply(gradient))


class _SyncForward:
    """``forward`` of a BatchNorm layer over all ranks (Ioffe and Szegedy 2015, algorithm 1).

    torch's ``SyncBatchNorm`` computes the same and refuses tensors of CPUs.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """``[b_r, C, ...]`` to the same shape; b_r may differ by rank, all ranks take part."""
        layer = cast("_BatchNorm", self)
        if not layer.training:
            return super().forward(maps)  # type: ignore[misc, no-any-return]
        wide = maps.float()
        dims = [0, *range(2, maps.dim())]
        shape = [1, -1] + [1] * (maps.dim() - 2)
        count = wide.new_full((1,), maps.numel() // maps.shape[1])
        total = _SumOverRanks.apply(torch.cat([wide.sum(dims), count]))
        mean, count = total[:-1] / total[-1], total[-1].detach()
        # From the mean of all: E[x^2] - E[x]^2 would cancel.
        centred = wide - mean.view(shape)
        variance = cast("Tensor", _SumOverRanks.apply(centred.square().sum(dims))) / count
        self._remember(layer, mean.detach(), variance.detach() * count / (count - 1))
        scale = (variance + layer.eps).rsqrt()
        if layer.affine:
            scale = scale * layer.weight
        normalised = centred * scale.view(shape)
        if layer.affine:
            normalised = normalised + layer.bias.view(shape)
        return cast("Tensor", normalised).to(maps.dtype)

    @staticmethod
    def _remember(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics, the variance unbiased, as torch does."""
        if layer.num_batches_tracked is None or not layer.track_running_stats:
            return
        layer.num_batches_tracked += 1
        factor = layer.momentum
        if factor is None:
            factor = 1 / float(layer.num_batches_tracked)
        for running, value in ((layer.running_mean, mean), (layer.running_var, variance)):
            cast("Tensor", running).lerp_(value, factor)


class SyncBatchNorm1d(_SyncForward, nn.BatchNorm1d):
    """:class:`torch.nn.BatchNorm1d` over all ranks."""


class SyncBatchNorm2d(_SyncForward, nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` over all ranks."""


_SYNCED: dict[type[nn.Module], type[_BatchNorm]] = {
    nn.BatchNorm1d: SyncBatchNorm1d,
    nn.BatchNorm2d: SyncBatchNorm2d,
}


def sync_batch_norm(network: nn.Module) -> None:
    """Make every BatchNorm layer of ``network`` one over all ranks, in place; nothing on one rank.

    Layers stay the objects that they are, so that whoever holds or hears one goes on to. The
    network has to be the same one on all ranks, and to see as many batches of training on each.

    Raises:
        UserError: See :func:`require_syncable`.
    """
    if world_size() == 1:
        return
    require_syncable(network)
    for layer in network.modules():
        if type(layer) in _SYNCED:
            layer.__class__ = _SYNCED[type(layer)]


def require_syncable(network: nn.Module) -> None:
    """Refuse a network with a BatchNorm layer of another kind, whose ``forward`` does more.

    Raises:
        UserError: For the first of them.
    """
    for layer in network.modules():
        is_known = type(layer) in _SYNCED or isinstance(layer, _SyncForward)
        if isinstance(layer, _BatchNorm) and not is_known:
            raise UserError(
                "Expected torch's own BatchNorm layers for trainer.sync_batch_norm, but "
                f"{type(network).__name__} has a {type(layer).__name__}; set it to false"
            )
