"""Watch for NaN and infinity without a host-device copy in the inner loop."""

import torch
from torch import Tensor, nn


class LossMonitor:
    """Means of named loss terms, and the first step at which one was not finite.

    Everything stays on the device until :meth:`flush`, which is called once per logging
    interval.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._first_bad: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    @torch.no_grad()
    def update(self, step: int, terms: dict[str, Tensor]) -> None:
        """Add the scalar ``terms`` of one step."""
        for name, value in terms.items():
            value = value.detach().float()
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(value)
                self._first_bad[name] = torch.full_like(value, -1, dtype=torch.long)
            self._sums[name] += value
            self._counts[name] = self._counts.get(name, 0) + 1
            bad = ~torch.isfinite(value) & (self._first_bad[name] < 0)
            self._first_bad[name].masked_fill_(bad, step)

    def flush(self, where: str) -> dict[str, float]:
        """Return the mean of every term over the steps that had it, and start afresh.

        Args:
            where: What the steps count, for the message, e.g. ``"round"``.

        Raises:
            FloatingPointError: If a term was NaN or infinite; names the term and the step.
        """
        if not self._sums:
            return {}
        names = list(self._sums)
        sums = torch.stack([self._sums[name] for name in names]).tolist()
        first_bad = torch.stack([self._first_bad[name] for name in names]).tolist()
        counts, self._counts = self._counts, {}
        self._sums, self._first_bad = {}, {}
        bad = [(step, name) for step, name in zip(first_bad, names, strict=True) if step >= 0]
        if bad:
            step, name = min(bad)
            raise FloatingPointError(
                f"Loss term '{name}' is not finite at {where} {step}; nothing was saved after it. "
                "Lower the learning rate or the term's weight, or use trainer.precision=32-true"
            )
        return {name: total / counts[name] for name, total in zip(names, sums, strict=True)}


def _all_finite(values: Tensor) -> Tensor:
    """Whether all are finite, a scalar on their device.

    By their extremes, which are NaN where a value is: one pass, and nothing of their size is made.
    """
    if not values.numel():
        return torch.ones((), dtype=torch.bool, device=values.device)
    # Not stacked: that refuses float16, which banks may keep, in autocast on CPUs.
    low, high = torch.aminmax(values)
    return low.isfinite() & high.isfinite()


class FiniteWatch:
    """Whether all that was shown to it was finite; on the device until it is asked."""

    def __init__(self) -> None:
        self._bad: Tensor | None = None

    @torch.no_grad()
    def update(self, *values: Tensor) -> None:
        """Look at floating tensors of any shape."""
        for value in values:
            bad = ~_all_finite(value.detach())
            self._bad = bad if self._bad is None else self._bad | bad

    def is_clean(self) -> bool:
        """Whether nothing was NaN or infinite so far; waits for the device."""
        return self._bad is None or not bool(self._bad)

    def reset(self) -> None:
        """Start afresh."""
        self._bad = None


@torch.no_grad()
def require_finite(module: nn.Module, what: str) -> None:
    """Make sure that weights may be saved; one copy to the host for the whole module.

    A loss is that of the weights before the step: it can be finite where they no longer are.

    Args:
        module: Its parameters and floating buffers are looked at, in this order.
        what: Whose they are, for the message, e.g. ``"student"``.

    Raises:
        FloatingPointError: If one holds NaN or infinity; names the first.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    floating = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    if not floating:
        return
    finite = torch.stack([_all_finite(tensor) for _, tensor in floating]).tolist()
    bad = next((name for (name, _), good in zip(floating, finite, strict=True) if not good), None)
    if bad is not None:
        raise FloatingPointError(
            f"'{bad}' of the {what} holds NaN or infinity after the last step; nothing was saved "
            "after it. Lower the learning rate, or use trainer.precision=32-true"
        )
