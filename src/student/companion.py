"""A vanilla student trained alongside stage (a), for methods that read the student."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from src.common.distributed import average_gradients
from src.network.classifier import Classifier
from src.student.step import meet, plain_output, update
from src.substitution.contract import Baseline


class CompanionStudent(nn.Module):
    """Steps of the published student loop, between two rounds of stage (a).

    It lives inside the fit of stage (a), which no wrapper surrounds, so it averages gradients
    itself. Its state travels with that module's.

    Args:
        network: The student.
        objective: The baseline's loss, see :func:`src.student.step.meet`.
        optimizer: Makes the optimiser from parameters.
        scheduler: Makes the schedule from the optimiser; None keeps the rate constant.
        scheduler_steps: Student steps between two steps of the schedule.
        steps_per_round: Student steps a round.
        batch_size: Images a step and rank.
        first_round: Rounds before the first step (Fast's warm-up).
        objective_lr: Learning rate of the objective's own Adam.
    """

    def __init__(
        self,
        network: Classifier,
        objective: nn.Module,
        *,
        optimizer: partial[Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None,
        scheduler_steps: int,
        steps_per_round: int,
        batch_size: int,
        first_round: int = 0,
        objective_lr: float = 1e-3,
    ) -> None:
        super().__init__()
        self.network, self.objective = network, objective
        self.steps_per_round, self.batch_size = steps_per_round, batch_size
        self.scheduler_steps, self.first_round = scheduler_steps, first_round
        self._optimizers = [optimizer(network.parameters())]
        self._scheduler = scheduler(self._optimizers[0]) if scheduler else None
        own = list(objective.parameters())
        if own:
            self._optimizers.append(torch.optim.Adam(own, lr=objective_lr))
        self.student_step, self.round = 0, 0

    def learn(self, baseline: Baseline) -> dict[str, Tensor]:
        """Take the student steps of one round; none while the baseline warms up."""
        self.round += 1
        if self.round <= self.first_round:
            return {}
        self.network.train()
        losses = [self._step(baseline) for _ in range(self.steps_per_round)]
        return {"distillation": torch.stack(losses).mean()}

    def _step(self, baseline: Baseline) -> Tensor:
        images = baseline.sample(self.batch_size)
        student = partial(plain_output, self.network)
        _, loss = meet(images, baseline.teacher, student, self.objective)
        update(loss, self._optimizers, self._backward)
        self.student_step += 1
        if self._scheduler and self.student_step % self.scheduler_steps == 0:
            self._scheduler.step()
        return loss.detach()

    def _backward(self, loss: Tensor) -> None:
        loss.backward()
        average_gradients(self.parameters())

    def get_extra_state(self) -> dict[str, Any]:
        """Progress, optimisers and schedule."""
        return {
            "student_step": self.student_step,
            "round": self.round,
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "scheduler": self._scheduler.state_dict() if self._scheduler else None,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        self.student_step, self.round = state["student_step"], state["round"]
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if self._scheduler:
            self._scheduler.load_state_dict(state["scheduler"])
