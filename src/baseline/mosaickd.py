"""MosaicKD: new images from the local patterns of a foreign pool."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from src.common.augment import Augmentation
from src.common.distributed import average_gradients, on_rank_zero, rank, world_size
from src.common.freezing import frozen
from src.common.seeding import global_generator
from src.dataset.contract import ImageSpec, Pool
from src.network.generator import ImageGenerator
from src.objective.adversarial import (
    disagreement_loss,
    patch_discriminator_loss,
    patch_generator_loss,
)
from src.objective.inversion import align_loss, balance_loss
from src.objective.precision import backward
from src.substitution.contract import Extent
from src.substitution.generator import GeneratorBaseline
from src.substitution.image_bank import ImageBank
from src.substitution.selection import PoolShare, count_of, selected_count
from src.teacher.frozen import FrozenTeacher

_FLIP_PROBABILITY = 0.5
_SCORING_BATCH = 256


class MosaicKD(GeneratorBaseline):
    """A round is one step of a patch discriminator and one of the generator, on the same images.

    ``L_D = w_local (BCE(D(x), 0) + BCE(D(r), 1)) / 2`` tells the patches of generated images x
    from those of pool images r. ``L_G = w_local L_local + w_align L_align + w_adv L_adv +
    w_balance L_balance`` wants patches that look real, a confident teacher, a student that
    disagrees with it, and balanced classes. The student then learns from batches of which half
    is generated and half is of the pool. Its BN is in train mode in the generator step too.

    Args:
        pool: Unlabeled images of a foreign domain.
        generator: Makes the generator from ``image_size`` and ``channels``.
        discriminator: Makes the patch discriminator from ``channels``.
        optimizer: Makes the optimiser of either from parameters.
        batch_size: Images x, and as many r, a round.
        total_rounds: Rounds over which both learning rates fall to 0 along a cosine.
        local_weight: w_local, for losses summed over patches and averaged over images.
        align_weight: w_align.
        adversarial_weight: w_adv.
        balance_weight: w_balance; belongs to ``balance_log_base``.
        balance_log_base: 2 in the released code.
        subset: Pool images to keep, those of the highest teacher entropy, as a number or a
            fraction of the pool; None keeps all.
        statistics: What the student's pool images are normalised with: the ``pool``'s own as
            released, or the ``teacher``'s. The discriminator's r have the teacher's always.
        augment: Random crop and flip of the student's pool images.

    Differs from the paper: its constrained minimax is a fixed weighted sum, as in the released
    code. Pool images are drawn with replacement instead of in shuffled passes.

    Source: Fang et al., Mosaicking to Distill: Knowledge Distillation from Out-of-Domain Data,
    NeurIPS 2021, arXiv:2110.15094.
    """

    student_mode: ClassVar[Literal["eval", "train"]] = "train"
    reads_student: ClassVar[bool] = True
    reads_pool: ClassVar[bool] = True

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        pool: Pool,
        generator: Callable[..., ImageGenerator],
        discriminator: Callable[..., nn.Module],
        optimizer: partial[Optimizer],
        batch_size: PositiveInt,
        total_rounds: PositiveInt,
        local_weight: NonNegativeFloat,
        align_weight: NonNegativeFloat,
        adversarial_weight: NonNegativeFloat,
        balance_weight: NonNegativeFloat,
        balance_log_base: Annotated[float, Field(gt=1)] = 2.0,
        subset: PoolShare | None = None,
        statistics: Literal["pool", "teacher"] = "pool",
        augment: bool = True,
        temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(
            teacher=teacher,
            spec=spec,
            generator=generator,
            optimizer=optimizer,
            batch_size=batch_size,
            sampling_mode="train",
            temperature=temperature,
        )
        self.discriminator = discriminator(channels=spec.channels)
        self.discriminator_optimizer = optimizer(self.discriminator.parameters())
        self.schedulers = {
            name: CosineAnnealingLR(own, total_rounds) for name, own in self.optimizers().items()
        }
        self.weights = {
            "local": local_weight,
            "align": align_weight,
            "adversarial": adversarial_weight,
            "balance": balance_weight,
        }
        self.balance_log_base = balance_log_base
        self.pool, self.subset = pool, subset
        mean, std = pool.statistics if statistics == "pool" else (spec.mean, spec.std)
        self.pool_bank = ImageBank.of(
            spec,
            mean=mean,
            std=std,
            augmentation=replace(spec.augmentation, flip_probability=_FLIP_PROBABILITY)
            if augment
            else Augmentation(),
        )

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        """What the generator records, and the pool or a subset of it."""
        if extent.pool is None:
            return {}
        share = options.get("subset") or extent.pool
        pooled = {f"baseline.subset of a pool of {extent.pool}": count_of(share, extent.pool)}
        return super().most_recorded(options, extent) | pooled

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """Train the discriminator, then the generator, one step each."""
        if len(self.pool_bank) == 0:
            self._read_pool()
        self.generator.train()
        self.discriminator.train()
        images = self.to_teacher(self.generate(self.batch_size))
        loss = self._train_discriminator(images.detach())
        terms = {"discriminator": loss} | self._train_generator(images, student)
        for scheduler in self.schedulers.values():
            scheduler.step()
        return terms

    def _train_discriminator(self, images: Tensor) -> Tensor:
        # Two passes, so that generated and pool images are normalised by a BN batch of their own.
        fake = self.discriminator(images)
        real = self.discriminator(self._real(len(images)))
        loss = patch_discriminator_loss(fake, real)
        self.discriminator_optimizer.zero_grad()
        backward(self.weights["local"] * loss)
        average_gradients(self.discriminator.parameters())
        self.discriminator_optimizer.step()
        return loss.detach()

    def _train_generator(self, images: Tensor, student: nn.Module | None) -> dict[str, Tensor]:
        logits = self.teacher(images).logits
        with frozen(self.discriminator):
            patches = self.discriminator(images)
        terms = {
            "local": patch_generator_loss(patches),
            "align": align_loss(logits),
            "balance": balance_loss(logits, self.balance_log_base),
        }
        if student is not None:
            terms["adversarial"] = disagreement_loss(student(images), logits)
        return self.step(terms, self.weights)

    def _real(self, n: int) -> Tensor:
        """Pool images as the discriminator sees them: not augmented, the teacher's statistics."""
        stored = self.pool_bank.images
        index = torch.randint(len(stored), (n,), device=self.device)
        return self.normalisation.from_uint8(stored[index.to(stored.device)].to(self.device))

    def _read_pool(self) -> None:
        """Bank this rank's share of the pool, or of its subset."""
        images = self.pool.unlabeled(self.spec.image_size)
        chosen = torch.arange(len(images))
        if self.subset is not None:
            entropies = on_rank_zero(lambda: self._entropies(images))
            order = entropies.sort(descending=True, stable=True).indices
            chosen = order[: selected_count(self.subset, len(images))]
        self.pool_bank.append(images[chosen[rank() :: world_size()]])

    @torch.no_grad()
    def _entropies(self, images: Tensor) -> Tensor:
        """Entropy of the teacher's prediction ``[P]``, nats, on the CPU."""
        entropies = []
        for batch in images.split(_SCORING_BATCH):
            logits = self.teacher(self.normalisation.from_uint8(batch.to(self.device))).logits
            log_probs = torch.log_softmax(logits, dim=1)
            entropies.append(-(log_probs.exp() * log_probs).sum(dim=1).cpu())
        return torch.cat(entropies)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Half generated, half pool images; the generator stays in train mode."""
        synthetic = super().sample((n + 1) // 2)
        real = self.pool_bank.draw(n // 2, global_generator(self.device))
        return torch.cat([synthetic, real])

    def optimizers(self) -> Mapping[str, Optimizer]:
        """The generator's and the discriminator's."""
        return {**super().optimizers(), "discriminator": self.discriminator_optimizer}

    def get_extra_state(self) -> dict[str, Any]:
        """Optimisers and their schedules."""
        schedules = {name: scheduler.state_dict() for name, scheduler in self.schedulers.items()}
        return {"optimizers": super().get_extra_state(), "schedules": schedules}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load them."""
        super().set_extra_state(state["optimizers"])
        for name, scheduler in self.schedulers.items():
            scheduler.load_state_dict(state["schedules"][name])
