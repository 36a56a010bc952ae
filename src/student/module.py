"""Stage (b): the student meets the teacher on substitution data."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from src.common.distributed import broadcast_buffers, require_equal_on_all_ranks
from src.common.finite import FiniteWatch, LossMonitor, require_finite
from src.network.classifier import Classifier
from src.objective.distillation import StudentOutput
from src.student.step import Batch, meet, plain_output, update
from src.teacher.frozen import FrozenTeacher

_CURVES = {
    "last": "student/acc",
    "best": "student/acc_best",
    "compensated": "student/acc_compensated",
}


def _percent(accuracy: MulticlassAccuracy) -> float:
    return round(100 * float(accuracy.compute()), 4)


class StudentModule(LightningModule):
    """Trains a student against the frozen teacher on batches of substitution images.

    Args:
        network: The student.
        teacher: The frozen teacher, on the right device already; not part of this module.
        objective: See :func:`src.student.step.meet`; if it has parameters of its own (DFND's
            noise matrix) they are trained by Adam.
        optimizer: Makes the student's optimiser from parameter groups; carries ``lr``.
        scheduler: Makes the learning-rate schedule from the optimiser; None keeps it constant.
        scheduler_steps: Student steps between two steps of the schedule; None: once an epoch.
        objective_lr: Learning rate of the objective's own Adam.
    """

    is_compensated: bool = False
    teacher: FrozenTeacher

    def __init__(
        self,
        network: Classifier,
        teacher: FrozenTeacher,
        objective: nn.Module,
        optimizer: partial[Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        scheduler_steps: int | None = None,
        objective_lr: float = 1e-3,
    ) -> None:
        super().__init__()
        # Two optimisers are possible (student and noise matrix); one code path for both cases.
        self.automatic_optimization = False
        # Not a sub-module: DDP and checkpoints must not see the teacher.
        object.__setattr__(self, "teacher", teacher)
        self.network, self.objective = network, objective
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.scheduler_steps, self.objective_lr = scheduler_steps, objective_lr
        self.scheduler: LRScheduler | None = None
        self.student_step = 0
        self.epochs_done = 0
        self.acc1: dict[str, float | None] = {"last": None, "best": None, "compensated": None}
        self._curves: dict[str, float] = {}  # of an evaluation that is not logged yet
        num_classes = network.head.out_features
        self.plain_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.compensated_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self._monitor, self._logits = LossMonitor(), FiniteWatch()
        self._watched = LossMonitor()  # apart: where both are not finite, the loss is named

    def student_output(self, images: Tensor, with_maps: bool = False) -> StudentOutput:
        """What meets the teacher, and the plain prediction, for ``images`` ``[B, C, H, W]``."""
        return plain_output(self.network, images, with_maps)

    def drawn(self, teacher_logits: Tensor) -> Tensor | None:
        """Rows that the step is made on, of a batch that the teacher has seen; None: all."""
        return None

    def plain_logits(self, raw_logits: Tensor) -> Tensor:
        """What the deployed student predicts, ``[B, K]``."""
        return raw_logits

    def watched(self, output: StudentOutput) -> dict[str, Tensor]:
        """Scalars of one step beside the loss, before its update; their means are logged."""
        return {}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the student's optimiser."""
        lr = self.make_optimizer.keywords["lr"]
        return [{"params": list(self.network.parameters()), "lr": lr}]

    def configure_optimizers(self) -> list[Optimizer]:
        """The student's optimiser, and the objective's if it has parameters."""
        optimizer = self.make_optimizer(self.parameter_groups())
        self.scheduler = self.make_scheduler(optimizer) if self.make_scheduler else None
        own = list(self.objective.parameters())
        return [optimizer] + ([torch.optim.Adam(own, lr=self.objective_lr)] if own else [])

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """One student step on substitution images ``[B, C, H, W]``."""
        output, loss = meet(batch, self.teacher, self.student_output, self.objective, self.drawn)
        watched = self.watched(output)
        optimizers: Any = self.optimizers()
        update(
            loss,
            optimizers if isinstance(optimizers, list) else [optimizers],
            self.manual_backward,
        )
        self._monitor.update(self.student_step, {"distillation": loss})
        self._watched.update(self.student_step, watched)
        self.student_step += 1
        if self.scheduler_steps and self.student_step % self.scheduler_steps == 0:
            self._step_schedule()

    def _step_schedule(self) -> None:
        if self.scheduler is not None:
            self.scheduler.step()

    def on_validation_start(self) -> None:
        """Evaluate the same network on every rank: BN statistics of rank 0."""
        broadcast_buffers(self)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count hits of the plain student, and of the compensated one where there is one."""
        images, labels = batch
        output = self.student_output(images)
        self._logits.update(output.plain_logits)
        self.plain_accuracy.update(output.plain_logits, labels)
        if self.is_compensated:
            self._logits.update(output.logits)
            self.compensated_accuracy.update(output.logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Last and best accuracy, apart: the best is chosen on the test split.

        Raises:
            FloatingPointError: If a prediction is NaN or infinite, which would count as class 0.
        """
        if not self._logits.is_clean():
            self._monitor.flush("student step")  # both know the place, if it is theirs
            require_finite(self, "student")
            raise FloatingPointError(
                "The student's logits on the test split are NaN or infinite, so it has no "
                "accuracy; nothing was saved after it. Lower the learning rate, or use "
                "trainer.precision=32-true"
            )
        self._logits.reset()
        last = _percent(self.plain_accuracy)
        best = max(last, self.acc1["best"] or 0.0)
        self.acc1 = {"last": last, "best": best, "compensated": None}
        if self.is_compensated:
            self.acc1["compensated"] = _percent(self.compensated_accuracy)
            self.compensated_accuracy.reset()
        self.plain_accuracy.reset()
        found = {_CURVES[name]: value for name, value in self.acc1.items()}
        self._curves = {curve: value for curve, value in found.items() if value is not None}

    def on_train_epoch_end(self) -> None:
        """Log losses and accuracies of the epoch and step an epoch-wise schedule.

        All in one row: validation comes before this, and a row of its own would lack the epoch,
        which W&B then takes from the row before.

        Raises:
            FloatingPointError: If a loss or what is trained here is not finite.
        """
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        means = self._monitor.flush("student step") | self._watched.flush("student step")
        require_finite(self, "student")
        values = {f"student/{name}": value for name, value in means.items()}
        values, self._curves = values | self._curves, {}
        self.epochs_done += 1
        if self.scheduler_steps is None:
            self._step_schedule()
        self.log_dict(
            values | {"student/lr": lr, "student/epoch": float(self.epochs_done)}, sync_dist=True
        )

    def on_train_end(self) -> None:
        """Leave the same student on every rank, and make sure of it."""
        broadcast_buffers(self)
        require_equal_on_all_ranks(self.network.state_dict().values(), "student parameters")

    def get_extra_state(self) -> dict[str, Any]:
        """Progress, accuracies and the schedule."""
        return {
            "student_step": self.student_step,
            "epochs_done": self.epochs_done,
            "acc1": self.acc1,
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        self.student_step, self.epochs_done = state["student_step"], state["epochs_done"]
        self.acc1 = state["acc1"]
        if self.scheduler and state["scheduler"]:
            self.scheduler.load_state_dict(state["scheduler"])
