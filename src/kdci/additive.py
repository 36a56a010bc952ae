"""Scores of additive attention without the ``[B, N, A]`` that their equation suggests."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_IN_CACHE, _ON_GPU = 2**19, 2**24  # numbers at a time; more would be slower, or fill the memory


class AdditiveScores(torch.autograd.Function):
    """``v^T tanh(q + k)`` ``[B, N]`` of queries ``[B, A]``, keys ``[N, A]`` and v ``[A]``.

    Goes over A in parts, forward and again backward, and keeps nothing of size ``B N A``.
    ``tanh(q + k) = 1 - 2 r`` with ``r = x / (x + y)``, ``x = exp(-2 q)`` and ``y = exp(2 k)``: it
    takes exponentials of q and k alone, and is equal to the equation up to rounding.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, score: Tensor) -> Tensor:
        """Scores in the dtype of the arguments, float32 or float64."""
        x, y, ctx.is_ratio = _factors(queries, keys)
        ctx.save_for_backward(x, y, score)
        scores = score.sum().repeat(len(queries), len(keys))
        for part, total in _sums(x, y):
            if ctx.is_ratio and len(total) == 1:  # divides and adds in one pass
                scores.addcdiv_(score[part] * x[part][0], total[0], value=-2)
            else:
                r = _sigmoid(x[part], total, ctx.is_ratio)
                scores.view(-1).addmv_(r.flatten(1).T, score[part], alpha=-2)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of queries, keys and v."""
        x, y, score = ctx.saved_tensors
        of_queries, of_keys, of_score = (
            x.new_empty(x.shape[:2]),
            torch.empty_like(y),
            score.clone(),
        )
        gradient = gradient.contiguous()
        with torch.autocast(gradient.device.type, enabled=False):
            for part, total in _sums(x, y):
                r = _sigmoid(x[part], total, ctx.is_ratio)
                torch.mv(r.flatten(1), gradient.flatten(), out=of_score[part])
                slope = torch.ops.aten.sigmoid_backward(gradient.expand_as(r), r, grad_input=r)
                torch.sum(slope, 2, out=of_queries[part])
                torch.sum(slope, 1, keepdim=True, out=of_keys[part])
        factor = 4 * score
        of_score = gradient.sum() - 2 * of_score
        return of_queries.T * factor, of_keys[:, 0].T * factor, of_score


def _factors(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, bool]:
    """Factors ``[A, B, 1]`` and ``[A, 1, N]``; r is x / (x + y) if True, else sigmoid(x + y).

    Keys are centred, and queries cut off where tanh is 1 of every key to rounding; what overflows
    even then has the sigmoid. So has a GPU: it is no slower there, and asking would make it wait.
    """
    x, y = queries.T.contiguous()[:, :, None], keys.T.contiguous()[:, None]
    if queries.device.type == "cpu":
        accuracy = torch.finfo(queries.dtype)
        low, high = torch.aminmax(y, dim=2, keepdim=True)
        centre, bound = (low + high) / 2, (high - low) / 2 - math.log(accuracy.eps)
        if bool((2 * bound < math.log(accuracy.max) - 1).all()):
            x = torch.minimum(torch.maximum(x + centre, -bound), bound)
            return (-2 * x).exp(), (2 * (y - centre)).exp(), True
    return -2 * x, -2 * y, False


def _sums(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some channels, and their x + y ``[a, B, N]``, in a buffer that the next ones take over."""
    width, each = len(x), x.shape[1] * y.shape[2]
    limit = _IN_CACHE if x.device.type == "cpu" else _ON_GPU
    step = max(1, min(width, limit // max(1, each)))
    buffer = x.new_empty(step, x.shape[1], y.shape[2])
    for start in range(0, width, step):
        part = slice(start, min(start + step, width))
        yield part, torch.add(x[part], y[part], out=buffer[: part.stop - start])


def _sigmoid(x: Tensor, total: Tensor, is_ratio: bool) -> Tensor:
    """Ratios ``[a, B, N]``, in place of the sums."""
    return torch.div(x, total, out=total) if is_ratio else total.sigmoid_()
