"""What stage (b) trains on: replayed banks, or a baseline that goes on producing."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from src.common.distributed import rank
from src.common.errors import UserError
from src.common.seeding import generator
from src.dataset.loader import LabelledBatches
from src.substitution.contract import Baseline, advance
from src.substitution.image_bank import ImageBank


class ReplayBatches:
    """Epochs of ``steps`` batches from finished banks, an equal share of a batch from each.

    Every epoch draws from its own generators, seeded by run, rank and epoch, so that a resumed
    fit, and a fit with and without compensation, see the same images in the same order.

    Args:
        banks: Substitution data of this rank.
        batch_size: Images a batch and rank.
        steps: Batches an epoch.
        seed: Seed of order and augmentation.

    Raises:
        UserError: If the batch cannot be shared equally between the banks.
    """

    def __init__(self, banks: list[ImageBank], batch_size: int, steps: int, seed: int) -> None:
        if batch_size % len(banks):
            raise UserError(
                f"Expected distill.batch_size to be a multiple of {len(banks)}, the number of "
                f"sources of this baseline, but got {batch_size}"
            )
        self.banks, self.share = banks, batch_size // len(banks)
        self.steps, self.seed = steps, seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def _order(self, position: int) -> Tensor:
        """Rows to visit this epoch, ``[steps, share]``: shuffled passes, one after another."""
        size = len(self.banks[position])
        draws = generator("cpu", self.seed, "order", rank(), position, self.epoch)
        needed = self.steps * self.share
        passes = [torch.randperm(size, generator=draws) for _ in range(-(-needed // size))]
        return torch.cat(passes)[:needed].view(self.steps, self.share)

    def __iter__(self) -> Iterator[Tensor]:
        orders = [self._order(i).to(bank.device) for i, bank in enumerate(self.banks)]
        draws = generator(self.banks[0].device, self.seed, "augmentation", rank(), self.epoch)
        self.epoch += 1
        for step in range(self.steps):
            parts = [
                bank.batch(order[step], draws)
                for bank, order in zip(self.banks, orders, strict=True)
            ]
            yield parts[0] if len(parts) == 1 else torch.cat(parts)


class OnlineBatches:
    """Batches of a baseline that advances one round every ``steps_per_round`` batches.

    Args:
        baseline: The method, with the student in the loop.
        student: The student's network.
        batch_size: Images a batch and rank.
        steps: Batches an epoch.
        steps_per_round: Student steps between two rounds.
        precision: Makes the autocast context that rounds run in.
    """

    def __init__(
        self,
        baseline: Baseline,
        student: nn.Module,
        *,
        batch_size: int,
        steps: int,
        steps_per_round: int,
        precision: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.baseline, self.student = baseline, student
        self.batch_size, self.steps = batch_size, steps
        self.steps_per_round, self.precision = steps_per_round, precision
        self.rounds = 0
        self.after_round: Callable[[int], None] | None = None

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Tensor]:
        for step in range(self.steps):
            if step % self.steps_per_round == 0:
                with self.precision():
                    advance(self.baseline, self.student)
                self.rounds += 1
                if self.after_round:
                    self.after_round(self.rounds)
            with self.precision(), torch.no_grad():
                images = self.baseline.sample(self.batch_size)
            yield images


class SubstitutionDataModule(LightningDataModule):
    """Substitution batches for training and the test split for evaluation.

    It has no handle on the original training split: stages (a) and (b) are data-free by
    construction.
    """

    def __init__(self, train: ReplayBatches | OnlineBatches, test: LabelledBatches) -> None:
        super().__init__()
        self.train, self.test = train, test

    def train_dataloader(self) -> ReplayBatches | OnlineBatches:
        """Substitution batches."""
        return self.train

    def val_dataloader(self) -> LabelledBatches:
        """The test split."""
        return self.test
