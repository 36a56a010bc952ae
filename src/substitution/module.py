"""Stage (a): one fit in which a training step is one round of a baseline."""

from copy import copy
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from src.common.distributed import broadcast_module, rank, world_size
from src.common.errors import UserError
from src.common.finite import LossMonitor, require_finite
from src.substitution.contract import Baseline, Companion, advance
from src.substitution.image_bank import ImageBank
from src.teacher.frozen import FrozenTeacher

_PREDICTION_BATCH = 256


class Recording(NamedTuple):
    """All substitution data of this rank and what the teacher says of it.

    Attributes:
        banks: The images.
        logits: ``[M, K]`` float32, on the CPU, bank after bank, images not augmented.
        features: ``[M, d]`` float32, on the CPU, in the same order.
    """

    banks: list[ImageBank]
    logits: Tensor
    features: Tensor

    @property
    def device(self) -> torch.device:
        """Where batches of the images are made, and where ranks meet."""
        return self.banks[0].device


@torch.no_grad()
def predict(
    teacher: FrozenTeacher, banks: list[ImageBank], source: str = "the baseline"
) -> Recording:
    """The teacher's predictions on every image of ``banks``.

    Args:
        teacher: The teacher.
        banks: Substitution data of this rank.
        source: Class of the baseline that made the images, for messages.

    Raises:
        UserError: If a bank is empty, or there is none.
        FloatingPointError: If an image or a prediction is not finite.
    """
    if not all(map(len, banks)) or not banks:
        raise UserError(
            f"Expected {source} to have recorded an image in every bank, but got "
            f"{[len(bank) for bank in banks]} images on rank {rank()}; let its `refresh` or "
            "`harvest` append to its banks, or raise substitution.num_images"
        )
    for bank in banks:
        bank.require_finite(source)
    outputs = [
        [kind.cpu() for kind in teacher(bank.batch(index))[:2]]  # all of them might fill a GPU
        for bank in banks
        for index in torch.arange(len(bank)).split(_PREDICTION_BATCH)
    ]
    logits, features = (torch.cat(kind) for kind in zip(*outputs, strict=True))
    if not (logits.isfinite().all() and features.isfinite().all()):
        raise FloatingPointError(
            f"Predictions of the teacher {type(teacher.network).__name__} on images of {source} "
            "are NaN or infinite; check the teacher's checkpoint, or use trainer.precision=32-true"
        )
    # As they are now: online, those of the method grow on.
    return Recording([copy(bank) for bank in banks], logits, features)


class SubstitutionModule(LightningModule):
    """Hosts one baseline; optimisers are the baseline's own and stepped by it.

    Args:
        baseline: The method.
        rounds: Length of the stage, rounds.
        num_images: Images that a generator records on this rank; samplers and methods with a
            bank of their own ignore it.
        record_from: Fraction of the rounds after which a generator starts to record, evenly
            spread over the rounds that remain; 1 records only the finished generator.
        log_every: Rounds between two log lines and saved states: what Lightning calls an epoch.
        companion: Student trained alongside, for methods that read one.
    """

    def __init__(
        self,
        baseline: Baseline,
        *,
        rounds: int,
        num_images: int,
        record_from: float,
        log_every: int,
        companion: Companion | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        own = [name for name, _ in baseline.named_parameters(recurse=False)]
        if own and world_size() > 1:
            raise UserError(
                f"Expected parameters of {type(baseline).__name__} to be those of its networks, "
                f"which are made equal on all ranks, but got {', '.join(own)} of its own; put "
                "them into a sub-module"
            )
        self.baseline = baseline
        self.companion = companion
        self.rounds, self.num_images, self.log_every = rounds, num_images, log_every
        self.first_recorded = min(int(record_from * rounds), max(rounds - 1, 0))
        self.round = 0
        self.epochs_done = 0
        self.losses: dict[str, float] = {}
        self._monitor = LossMonitor()
        self._predictions: tuple[Tensor, Tensor] | None = None

    def configure_optimizers(self) -> None:
        """None: the baseline steps its own."""

    def on_fit_start(self) -> None:
        """Start all ranks from rank 0's networks.

        A fit that goes on has its own: BatchNorm statistics of a generator differ by rank.
        """
        if self.round == 0:
            for network in self.baseline.networks():
                broadcast_module(network)

    def train_dataloader(self) -> range:
        """The rounds of one epoch; Lightning asks again before each."""
        return range(min(self.log_every, self.rounds - self.round))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Run one round."""
        student: nn.Module | None = self.companion.network if self.companion else None
        terms = advance(self.baseline, student)
        if self.companion:
            terms = terms | self.companion.learn(self.baseline)
        self.baseline.harvest(self._due(self.round))
        self._monitor.update(self.round, terms)
        self.round += 1

    def _due(self, index: int) -> int:
        """Images to record in round ``index``, so that the sum is exactly ``num_images``."""
        done, span = index - self.first_recorded, self.rounds - self.first_recorded
        if done < 0:
            return 0
        return self.num_images * (done + 1) // span - self.num_images * done // span

    def on_train_epoch_end(self) -> None:
        """Log the mean of every loss term of these rounds.

        Raises:
            FloatingPointError: If a loss term, what outlives a round, or an image is not finite.
        """
        self.epochs_done += 1
        self.losses = self._monitor.flush("round")
        self.baseline.require_finite()
        if isinstance(self.companion, nn.Module):
            require_finite(self.companion, "student trained alongside")
        values = {f"stage_a/{name}": value for name, value in self.losses.items()}
        self.log_dict(values | {"stage_a/round": float(self.round)}, sync_dist=True)

    def recording(self) -> Recording:
        """All substitution data as it lies now, with the teacher's predictions, computed once.

        Raises:
            UserError: If the baseline has recorded nothing.
            FloatingPointError: If an image or a prediction is not finite.
        """
        baseline, banks = self.baseline, self.baseline.substitution_data()
        if self._predictions is None:
            predicted = predict(baseline.teacher, banks, type(baseline).__name__)
            self._predictions = predicted.logits, predicted.features
        # Kept from within the fit, banks would hold GPU memory a second time: at its end Lightning
        # moves those of the method to the CPU, from where they come back into new memory.
        return Recording([copy(bank) for bank in banks], *self._predictions)

    def get_extra_state(self) -> dict[str, Any]:
        """Progress and the latest losses."""
        return {"round": self.round, "epochs_done": self.epochs_done, "losses": self.losses}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from there."""
        self.round, self.epochs_done = state["round"], state["epochs_done"]
        self.losses = state["losses"]
