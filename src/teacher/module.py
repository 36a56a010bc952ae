"""Trains a teacher on the original data: the only module that ever sees it."""

from functools import partial
from typing import Any, Literal, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torchmetrics.classification import MulticlassAccuracy

from src.common.distributed import broadcast_buffers
from src.common.finite import FiniteWatch, LossMonitor, require_finite
from src.network.classifier import Classifier
from src.objective.precision import backward_pass

_SHORTEST_CYCLE = 4  # steps


class TeacherModule(LightningModule):
    """Cross-entropy training; the weights of the last epoch count, never the best on the test.

    Args:
        network: The teacher to be.
        optimizer: Makes the optimiser from parameters; carries ``lr``, the peak rate.
        total_steps: Training steps of the whole fit.
        schedule: ``one_cycle`` (warm-up, then annealing to zero) or ``cosine``. Fewer than four
            steps take the cosine: one cycle has no room for its warm-up, and of a single step
            only the last rate, almost 0.
        label_smoothing: Share of the target spread over all classes.
    """

    def __init__(
        self,
        network: Classifier,
        optimizer: partial[Optimizer],
        *,
        total_steps: int,
        schedule: Literal["one_cycle", "cosine"] = "cosine",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.make_optimizer = optimizer
        self.total_steps, self.schedule = total_steps, schedule
        self.label_smoothing = label_smoothing
        self.epochs_done = 0
        self.step = 0
        self.acc1 = 0.0
        self.accuracy = MulticlassAccuracy(network.head.out_features, average="micro")
        self._monitor, self._logits = LossMonitor(), FiniteWatch()
        self.scheduler: LRScheduler

    def configure_optimizers(self) -> Optimizer:
        """The optimiser; its schedule is stepped by hand, every step."""
        optimizer = self.make_optimizer(self.network.parameters())
        if self.schedule == "one_cycle" and self.total_steps >= _SHORTEST_CYCLE:
            peak = self.make_optimizer.keywords["lr"]
            self.scheduler = OneCycleLR(optimizer, peak, total_steps=self.total_steps)
        else:
            self.scheduler = CosineAnnealingLR(optimizer, self.total_steps)
        return optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """One step on labelled images."""
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        optimizer = cast("LightningOptimizer", self.optimizers())
        optimizer.zero_grad()
        with backward_pass(loss):
            self.manual_backward(loss)
        optimizer.step()
        if self.step + 1 < self.total_steps:  # one_cycle has no rate beyond its last step
            self.scheduler.step()
        self._monitor.update(self.step, {"cross_entropy": loss})
        self.step += 1

    def on_train_epoch_end(self) -> None:
        """Log the mean loss and the accuracy of the epoch, in one row.

        Raises:
            FloatingPointError: If a loss or the network is not finite.
        """
        losses = self._monitor.flush("teacher step")
        require_finite(self.network, "teacher")
        self.epochs_done += 1
        values = {f"teacher/{name}": value for name, value in losses.items()}
        # Validation comes before this, and a row of its own would lack the epoch.
        values |= {"teacher/acc": self.acc1, "teacher/epoch": float(self.epochs_done)}
        self.log_dict(values, sync_dist=True)

    def on_validation_start(self) -> None:
        """Measure the network that would be saved: with rank 0's BN statistics on every rank."""
        broadcast_buffers(self)

    def on_train_end(self) -> None:
        """Leave the same BN statistics on every rank."""
        broadcast_buffers(self)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Count hits on the test split; the last layer is float32, as in the frozen teacher."""
        images, labels = batch
        logits = self.network(images)
        self._logits.update(logits)
        self.accuracy.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        """Accuracy of the weights as they are, percent.

        Raises:
            FloatingPointError: If a prediction is NaN or infinite, which would count as class 0.
        """
        if not self._logits.is_clean():
            self._monitor.flush("teacher step")  # both know the place, if it is theirs
            require_finite(self.network, "teacher")
            raise FloatingPointError(
                "The teacher's logits on the test split are NaN or infinite, so it has no "
                "accuracy; nothing was saved after it. Lower teacher.fit.optimizer.lr, or use "
                "trainer.precision=32-true"
            )
        self._logits.reset()
        self.acc1 = 100 * float(self.accuracy.compute())
        self.accuracy.reset()

    def get_extra_state(self) -> dict[str, Any]:
        """Progress, accuracy and the schedule."""
        return {
            "epochs_done": self.epochs_done,
            "step": self.step,
            "acc1": self.acc1,
            "scheduler": self.scheduler.state_dict(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        self.epochs_done, self.step = state["epochs_done"], state["step"]
        self.acc1 = state["acc1"]
        self.scheduler.load_state_dict(state["scheduler"])
