"""DFND: the images of an unlabeled pool that the teacher is most confident of."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn

from src.common.augment import Augmentation
from src.common.distributed import gather_rows, rank, world_size
from src.common.seeding import global_generator
from src.dataset.contract import ImageSpec, Pool
from src.dataset.normalisation import Normalisation
from src.objective.noise import NoisyDistillationObjective, class_weights
from src.substitution.contract import Baseline, Extent
from src.substitution.image_bank import ImageBank
from src.substitution.selection import PoolShare, count_of, selected_count
from src.teacher.frozen import FrozenTeacher

_Statistics = tuple[tuple[float, ...], tuple[float, ...]]
_IMAGENET: _Statistics = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)
_LARGEST_DIAGONAL = 0.999
_SCORING_BATCH = 256


class DFND(Baseline):
    """The first round scores the pool, ``v = -log max_c softmax(T(u))_c``, and keeps the smallest.

    The student then learns from T's soft predictions, and from T's hard labels through a noise
    matrix that is trained with it. Defaults are the authors' second code release; the first one
    is ``temperature=2 weight_classes=true augment=false``.

    Args:
        pool: Unlabeled images.
        num_select: Images to keep over all ranks, as a number or a fraction of the pool; the
            whole pool where it is smaller.
        statistics: What pool images are normalised with, in scoring and training: ``imagenet``
            as released, the ``pool``'s own, or the ``teacher``'s.
        augment: Random crop and flip of the selected images.
        diagonal: Fixed diagonal of the noise matrix; None takes the teacher's test accuracy.
        weight_classes: Weight both losses by the inverse frequency of the selected classes.
        compensate_noise: Whether the noise-adapted term sees the compensated prediction.
        temperature: Temperature of the KL term.

    Source: Chen et al., Learning Student Networks in the Wild, CVPR 2021.
    """

    reads_pool: ClassVar[bool] = True

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        pool: Pool,
        num_select: PoolShare,
        statistics: Literal["imagenet", "pool", "teacher"] = "imagenet",
        augment: bool = True,
        diagonal: float | None = None,
        weight_classes: bool = False,
        compensate_noise: bool = False,
        temperature: PositiveFloat = 4.0,
    ) -> None:
        super().__init__(teacher=teacher, spec=spec, temperature=temperature)
        self.pool, self.num_select = pool, num_select
        self.diagonal, self.weight_classes = diagonal, weight_classes
        self.compensate_noise = compensate_noise
        mean, std = _IMAGENET
        if statistics == "pool":  # asked for only here: a pool may have to measure them
            mean, std = pool.statistics
        elif statistics == "teacher":
            mean, std = spec.mean, spec.std
        self.pool_normalisation = Normalisation(mean, std)
        self.bank = ImageBank.of(
            spec,
            mean=mean,
            std=std,
            augmentation=replace(spec.augmentation, flip_probability=0.5)
            if augment
            else Augmentation(),
        )
        self.selected: Tensor | None = None
        self.class_counts: Tensor | None = None

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        """The selection."""
        if extent.pool is None:
            return {}
        selected = count_of(options["num_select"], extent.pool)
        return {f"baseline.num_select of a pool of {extent.pool}": selected}

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """Select in the first round; nothing is left to do in later ones."""
        if self.selected is not None:
            return {}
        images = self.pool.unlabeled(self.spec.image_size)
        wanted = selected_count(self.num_select, len(images))
        scores, labels = self._score(images)
        # Stable: very confident images can tie at exactly 0.
        order = torch.sort(scores, stable=True).indices[:wanted]
        self.class_counts = torch.bincount(labels[order], minlength=self.spec.num_classes).cpu()
        self.selected = order.cpu()
        self.bank.append(images[self.selected[rank() :: world_size()]])
        return {"selected_nll": scores[order].mean()}

    @torch.no_grad()
    def _score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Score ``[P]`` and predicted class ``[P]`` of the pool; every rank scores its share."""
        own = torch.arange(rank(), len(images), world_size())
        confidences, labels = [], []
        for index in own.split(_SCORING_BATCH):
            batch = self.pool_normalisation.from_uint8(images[index].to(self.device))
            best = torch.log_softmax(self.teacher(batch).logits, dim=1).max(dim=1)
            confidences.append(-best.values)
            labels.append(best.indices)
        position = gather_rows(own.to(self.device))
        inverse = torch.empty_like(position)
        inverse[position] = torch.arange(len(position), device=self.device)
        scores = gather_rows(torch.cat(confidences))[inverse]
        return scores, gather_rows(torch.cat(labels))[inverse]

    def sample(self, n: int) -> Tensor:
        """Selected images, augmented."""
        return self.bank.draw(n, global_generator(self.device))

    def objective(self) -> nn.Module:
        """KL to the teacher plus the noise-adapted likelihood of its hard labels."""
        diagonal = self.diagonal
        if diagonal is None:
            acc1 = 100.0 if self.teacher.acc1 is None else self.teacher.acc1
            diagonal = min(max(acc1 / 100, 1 - _LARGEST_DIAGONAL), _LARGEST_DIAGONAL)
        weights = None
        if self.weight_classes and self.class_counts is not None:
            weights = class_weights(self.class_counts)
        return NoisyDistillationObjective(
            self.spec.num_classes,
            diagonal,
            temperature=self.temperature,
            class_weights=weights,
            compensate_noise=self.compensate_noise,
        )

    def get_extra_state(self) -> dict[str, Any]:
        """The selection."""
        return {"selected": self.selected, "class_counts": self.class_counts}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Load it."""
        self.selected, self.class_counts = state["selected"], state["class_counts"]
