"""What stage (b) trains on: replayed banks, or a baseline that goes on producing."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from src.common.distributed import rank
from src.common.errors import UserError
from src.common.finite import LossMonitor
from src.common.seeding import generator
from src.common.systematic import thinned
from src.substitution.contract import Baseline, advance
from src.substitution.image_bank import ImageBank


def held_out_rows(sizes: Sequence[int], share: float, seed: int) -> list[Tensor]:
    """Images of each bank that no student is trained on, chosen by seed, rank and bank alone.

    Args:
        sizes: Images of each bank of this rank.
        share: Of each bank, rounded; one image at least, and one at least is left. In (0, 1).
        seed: The run's.

    Returns:
        Of each bank increasing rows ``[m]``, int64.

    Raises:
        UserError: If a bank has a single image.
    """
    if min(sizes) < 2:
        raise UserError(
            f"Expected at least two recorded images in every bank for distill.held_out={share}, "
            f"but got {list(sizes)}; have more recorded, or use distill.held_out=0"
        )
    found = []
    for position, size in enumerate(sizes):
        draws = generator("cpu", seed, "held out", rank(), position)
        count = min(max(1, round(share * size)), size - 1)
        found.append(torch.randperm(size, generator=draws)[:count].sort().values)
    return found


class ReplayBatches:
    """Epochs of ``steps`` batches from finished banks, an equal share of a batch from each.

    A batch is images ``[B, C, H, W]``; where no bank augments, and the teacher's predictions are
    given, it is a pair of images and these predictions ``[B, K]``, which need not be made again.

    Every epoch draws from its own generators, seeded by run, rank and epoch, so that a resumed
    fit, and a fit with and without compensation, see the same images in the same order.

    Args:
        banks: Substitution data of this rank.
        batch_size: Images a batch and rank.
        steps: Batches an epoch.
        seed: Seed of order and augmentation.
        inclusion: Of each bank, with what probability ``[M]`` in [0, 1] an image that is passed
            is taken, not all 0; None takes all. Where all are 1 batches are those of None.
        logits: Of each bank, what the teacher says of its images ``[M, K]``; None: not known.
    """

    def __init__(
        self,
        banks: list[ImageBank],
        batch_size: int,
        steps: int,
        seed: int,
        inclusion: list[Tensor] | None = None,
        logits: list[Tensor] | None = None,
    ) -> None:
        self.banks, self.steps, self.seed = banks, steps, seed
        count = len(banks)
        self.shares = [(batch_size + count - 1 - position) // count for position in range(count)]
        self.inclusion = inclusion
        augments = any(not bank.augmentation.is_identity for bank in banks)
        self.logits = None if augments else logits
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def _order(self, position: int) -> Tensor:
        """Rows to visit this epoch, ``[steps, share]``: shuffled passes, one after another."""
        share = self.shares[position]
        size, needed = len(self.banks[position]), self.steps * share
        draws = generator("cpu", self.seed, "order", rank(), position, self.epoch)
        offsets = generator("cpu", self.seed, "thinning", rank(), position, self.epoch)
        taken, count = [torch.empty(0, dtype=torch.int64)], 0  # a share may be empty
        while count < needed:
            visited = torch.randperm(size, generator=draws)
            if self.inclusion is not None:
                offset = float(torch.rand((), generator=offsets))
                visited = visited[thinned(self.inclusion[position][visited], offset)]
            taken.append(visited)
            count += len(visited)
        return torch.cat(taken)[:needed].view(self.steps, share)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        orders = [self._order(i).to(bank.device) for i, bank in enumerate(self.banks)]
        # Moved once: a copy of each batch would make a GPU wait.
        known = [of.to(self.banks[0].device) for of in self.logits or ()]
        draws = generator(self.banks[0].device, self.seed, "augmentation", rank(), self.epoch)
        self.epoch += 1
        for step in range(self.steps):
            parts = [
                bank.batch(order[step], draws)
                for bank, order in zip(self.banks, orders, strict=True)
            ]
            images = parts[0] if len(parts) == 1 else torch.cat(parts)
            if self.logits is None:
                yield images
                continue
            logits = [of[order[step]] for of, order in zip(known, orders, strict=True)]
            yield images, torch.cat(logits)


class OnlineBatches:
    """Batches of a baseline, each drawn by the step that is made on it: what comes is the call.

    So a step draws in its own precision, and after :class:`OnlineRounds` has moved the baseline.

    Args:
        baseline: The method, with the student in the loop.
        batch_size: Images a batch and rank.
        steps: Batches an epoch.
    """

    def __init__(self, baseline: Baseline, *, batch_size: int, steps: int) -> None:
        self.baseline, self.batch_size, self.steps = baseline, batch_size, steps
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Callable[[], Tensor]]:
        for _ in range(self.steps):
            yield self.draw

    @torch.no_grad()
    def draw(self) -> Tensor:
        """Images ``[B, C, H, W]`` of the baseline as it is now."""
        return self.baseline.sample(self.batch_size)


class OnlineRounds(Callback):
    """Advances a baseline one round before every ``steps_per_round`` student steps of an epoch.

    Args:
        baseline: The method; it reads the network of the fitted module.
        steps_per_round: Student steps between two rounds.
        after_round: Called with the number of rounds so far, counted over interruptions.
    """

    def __init__(
        self,
        baseline: Baseline,
        *,
        steps_per_round: int,
        after_round: Callable[[int], None] | None = None,
    ) -> None:
        self.baseline, self.steps_per_round = baseline, steps_per_round
        self.after_round = after_round
        self.rounds = 0
        self._monitor = LossMonitor()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count from the epochs that are finished."""
        an_epoch = -(-int(trainer.num_training_batches) // self.steps_per_round)
        self.rounds = cast(int, pl_module.epochs_done) * an_epoch

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A round where one is due, and a look at the baseline before the epoch's last step.

        Raises:
            FloatingPointError: If a loss term, or what outlives a round, is not finite.
        """
        if batch_idx % self.steps_per_round == 0:
            with trainer.precision_plugin.forward_context():
                terms = advance(self.baseline, cast("nn.Module", pl_module.network))
            self._monitor.update(self.rounds, terms)
            self.rounds += 1
            if self.after_round:
                self.after_round(self.rounds)
        if batch_idx == trainer.num_training_batches - 1:
            self._monitor.flush("round")
            self.baseline.require_finite()
