"""Logs of mixtures of distributions without the ``[B, N, K]`` that their equation suggests."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_TINY = 1e-200  # of sums above it, terms that float64 loses are no more than rounding
_PART = 2**22  # numbers at a time where sums are taken in logs


def log_mixture(log_weights: Tensor, log_classes: Tensor) -> Tensor:
    """``log sum_n exp(log_weights[b, n] + log_classes[n, k])`` ``[B, K]``.

    On the CPU a product of two matrices of exponentials relative to their largest, in float64.
    Rows of which a sum is lost even there, and on other devices all, are summed in logs, a few at
    a time. Gradients are finite and those of the equation in both.

    Args:
        log_weights: ``[B, N]``.
        log_classes: ``[N, K]``, of the same dtype.
    """
    if log_weights.device.type != "cpu":  # asking whether a sum is lost would make it wait
        step = max(1, _PART // log_classes.numel())
        return torch.cat([_in_logs(rows, log_classes) for rows in log_weights.split(step)])
    weights, classes = log_weights.double(), log_classes.double()
    of_weights = weights.detach().amax(1, keepdim=True)
    of_classes = classes.detach().amax(0, keepdim=True)
    sums = (weights - of_weights).exp() @ (classes - of_classes).exp()
    logs = sums.clamp_min(_TINY).log() + of_weights + of_classes
    lost = (sums < _TINY).any(1).nonzero().squeeze(1)
    if len(lost):
        few = lost.split(max(1, _PART // log_classes.numel()))
        parts = [_in_logs(weights[rows], classes) for rows in few]
        logs = logs.index_copy(0, lost, torch.cat(parts))
    return logs.to(log_weights.dtype)


def _in_logs(weights: Tensor, classes: Tensor) -> Tensor:
    """The same sum, by its equation; backward computes it again instead of keeping its terms."""

    def summed(weights: Tensor, classes: Tensor) -> Tensor:
        return torch.logsumexp(weights[:, :, None] + classes, dim=1)

    logs: Tensor = checkpoint(
        summed, weights, classes, use_reentrant=False, preserve_rng_state=False
    )
    return logs
