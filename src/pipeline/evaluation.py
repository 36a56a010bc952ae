"""How often the student is evaluated."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer

from src.common.distributed import world_size
from src.config.schema import Distill

_SHARE = 0.08  # of the work of stage (b)
_STEP = 4  # student forwards that a training image costs: the teacher's, its own, and backward


def evaluate_every(options: Distill, test_images: int) -> int:
    """Epochs from one evaluation to the next.

    Counted from the sizes, not from a clock, so that it is the same wherever a run goes on.

    Args:
        options: Of stage (b); ``auto`` keeps evaluations below about 8% of its work.
        test_images: Images of the test split, over all ranks.
    """
    if options.evaluate_every != "auto":
        return options.evaluate_every
    trained = options.steps_per_epoch * options.batch_size * world_size()
    return math.ceil(test_images / (_SHARE * _STEP * trained))


class EvaluateEvery(Callback):
    """Validates every so many epochs, counted back from the last, which is always validated.

    Lightning counts from the first epoch of an attempt: it would leave out the last one, and
    choose other epochs after an interruption.

    Args:
        epochs: From one validation to the next.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide for this epoch; an attempt ends with the fit's last epoch."""
        left = (trainer.max_epochs or 0) - 1 - trainer.current_epoch
        trainer.limit_val_batches = 0 if left % self.epochs else 1.0
