"""What stage (b) trains on: replayed banks, or a baseline that goes on producing."""

from collections.abc import Callable, Iterator
from typing import cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from src.common.distributed import rank
from src.common.errors import UserError
from src.common.finite import LossMonitor
from src.common.seeding import generator
from src.common.systematic import thinned
from src.substitution.contract import Baseline, advance
from src.substitution.image_bank import ImageBank


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
        inclusion: Of each bank, with what probability ``[M]`` in (0, 1] an image that is passed
            is taken; None takes all. Where all are 1 batches are those of None.
        logits: Of each bank, what the teacher says of its images ``[M, K]``; None: not known.

    Raises:
        UserError: If the batch cannot be shared equally between the banks.
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
        if batch_size % len(banks):
            raise UserError(
                f"Expected distill.batch_size to be a multiple of {len(banks)}, the number of "
                f"sources of this baseline, but got {batch_size}"
            )
        self.banks, self.share = banks, batch_size // len(banks)
        self.steps, self.seed = steps, seed
        self.inclusion = inclusion
        augments = any(not bank.augmentation.is_identity for bank in banks)
        self.logits = None if augments else logits
        self.epoch = 0

    def __len__(self) -> int:
        return self.steps

    def _order(self, position: int) -> Tensor:
        """Rows to visit this epoch, ``[steps, share]``: shuffled passes, one after another."""
        size, needed = len(self.banks[position]), self.steps * self.share
        draws = generator("cpu", self.seed, "order", rank(), position, self.epoch)
        offsets = generator("cpu", self.seed, "thinning", rank(), position, self.epoch)
        taken: list[Tensor] = []
        while sum(map(len, taken)) < needed:
            visited = torch.randperm(size, generator=draws)
            if self.inclusion is not None:
                offset = float(torch.rand((), generator=offsets))
                visited = visited[thinned(self.inclusion[position][visited], offset)]
            taken.append(visited)
        return torch.cat(taken)[:needed].view(self.steps, self.share)

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
    """Batches of a baseline that advances one round every ``steps_per_round`` batches.

    Args:
        baseline: The method, with the student in the loop.
        module: The student's fit; its network is read, and its precision used.
        batch_size: Images a batch and rank.
        steps: Batches an epoch.
        steps_per_round: Student steps between two rounds.
    """

    def __init__(
        self,
        baseline: Baseline,
        module: LightningModule,
        *,
        batch_size: int,
        steps: int,
        steps_per_round: int,
    ) -> None:
        self.baseline, self.module = baseline, module
        self.batch_size, self.steps = batch_size, steps
        self.steps_per_round = steps_per_round
        self.epoch = 0
        self.after_round: Callable[[int], None] | None = None

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Tensor]:
        precision = self.module.trainer.precision_plugin.forward_context
        student = cast("nn.Module", self.module.network)
        rounds = self.epoch * -(-self.steps // self.steps_per_round)
        self.epoch += 1
        monitor = LossMonitor()
        for step in range(self.steps):
            if step % self.steps_per_round == 0:
                with precision():
                    monitor.update(rounds, advance(self.baseline, student))
                rounds += 1
                if self.after_round:
                    self.after_round(rounds)
            with precision(), torch.no_grad():
                images = self.baseline.sample(self.batch_size)
            if step == self.steps - 1:  # whoever knows the length never asks beyond it
                monitor.flush("round")
                self.baseline.require_finite()
            yield images
