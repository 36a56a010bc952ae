"""Adam with betas (0.5, 0.999), written out."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Adam:
    """One step after another, on a list of tensors with a learning rate each."""

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = rates
        self.first = [torch.zeros(()) for _ in rates]
        self.second = [torch.zeros(()) for _ in rates]
        self.steps = 0

    def step(self, values: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """Values after the step."""
        self.steps += 1
        moved = []
        for i, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
            self.first[i] = 0.5 * self.first[i] + 0.5 * gradient
            self.second[i] = 0.999 * self.second[i] + 0.001 * gradient**2
            mean = self.first[i] / (1 - 0.5**self.steps)
            root = (self.second[i] / (1 - 0.999**self.steps)) ** 0.5
            moved.append(value.detach() - self.rates[i] * mean / (root + 1e-8))
        return moved
