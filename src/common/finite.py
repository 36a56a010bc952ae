"""Watch losses for NaN and infinity without a host-device copy in the inner loop."""

import torch
from torch import Tensor


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
