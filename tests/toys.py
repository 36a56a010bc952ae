"""A method, a student and its fits, small enough to run hundreds of times."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from src.common.augment import Augmentation
from src.config.schema import TrainerOptions
from src.dataset.contract import ImageSpec, Pool, Split
from src.dataset.loader import LabelledBatches
from src.kdci.clustering import KMeans
from src.kdci.compensation import BackdoorCompensation
from src.kdci.dictionary import ConfounderDictionary
from src.network.convnet import ConvNet
from src.objective.distillation import DistillationObjective
from src.pipeline.job import Job
from src.student.kdci_student import KDCIStudent
from src.student.module import StudentModule
from src.substitution.contract import Baseline
from src.substitution.image_bank import ImageBank
from src.substitution.row_store import RowStore
from src.teacher.frozen import FrozenTeacher

CPU = torch.device("cpu")
SGD: Any = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)


class Toy(Baseline):
    """A one-layer generator that the teacher shall find confident, the student uncertain."""

    def __init__(self, *, teacher: FrozenTeacher, spec: ImageSpec) -> None:
        super().__init__(teacher=teacher, spec=spec, temperature=2.0)
        self.shape = (spec.channels, spec.image_size, spec.image_size)
        self.generator = nn.Linear(4, spec.channels * spec.image_size**2)
        self.optimizer = torch.optim.Adam(self.generator.parameters(), lr=0.05)
        self.bank = ImageBank.of(spec, augmentation=Augmentation(1, 0.5))
        self.seen_modes: list[bool] = []

    def _pixels(self, n: int) -> Tensor:
        flat: Tensor = self.generator(torch.randn(n, 4)).sigmoid()
        return flat.view(n, *self.shape)

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        images = self.normalisation(self._pixels(8))
        logits = self.teacher(images).logits
        confident = -logits.log_softmax(1).amax(1).mean()
        loss = confident
        if student is not None:
            self.seen_modes.append(student.training)
            loss = loss + student(images).log_softmax(1).amax(1).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"confident": confident.detach(), "total": loss.detach()}

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        images: Tensor = self.normalisation(self._pixels(n))
        return images

    @torch.no_grad()
    def harvest(self, n: int) -> None:
        self.bank.append(self._pixels(n))

    def substitution_data(self) -> list[ImageBank]:
        return [self.bank]

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        return {"generator": self.optimizer}


class Storing(Toy):
    """Makes its images of latents that it has kept; where is for the caller to say, in bytes."""

    def __init__(self, *, mapped_above: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.store = RowStore((4,), torch.float32, mapped_above=mapped_above)

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        self.store.append(torch.randn(8, 4))
        return super().refresh(student)

    def _pixels(self, n: int) -> Tensor:
        latents = self.store.take(torch.randint(len(self.store), (n,)))
        flat: Tensor = self.generator(latents).sigmoid()
        return flat.view(n, *self.shape)


class NoisePool(Pool):
    """Images of 8 pixels, drawn when it is made."""

    name = "noise"
    statistics = ((0.1, 0.2, 0.3), (0.5, 0.25, 1.0))

    def __init__(self, count: int = 40) -> None:
        self.images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8)

    def unlabeled(self, image_size: int) -> Tensor:
        assert image_size == 8
        return self.images

    def fingerprint(self) -> str:
        return "noise"


def convnet(spec: ImageSpec) -> ConvNet:
    return ConvNet([4, 8], num_classes=spec.num_classes)


def filled_bank(spec: ImageSpec, count: int = 40, **options: Any) -> ImageBank:
    """Random pixels."""
    bank = ImageBank.of(spec, **options)
    bank.append(torch.rand(count, spec.channels, spec.image_size, spec.image_size))
    return bank


def dictionary(count: int = 3, dim: int = 4) -> ConfounderDictionary:
    return KMeans(count).fit(torch.randn(60, dim))


def student(
    spec: ImageSpec, teacher: FrozenTeacher, *, objective: nn.Module | None = None, **options: Any
) -> StudentModule:
    """A vanilla student of the toy networks."""
    loss = objective or DistillationObjective(2.0)
    return StudentModule(convnet(spec), teacher, loss, **({"optimizer": SGD} | options))


def kdci_student(
    spec: ImageSpec,
    teacher: FrozenTeacher,
    *,
    loaded: ConfounderDictionary | None = None,
    lr_scale: float = 1.0,
    **options: Any,
) -> KDCIStudent:
    """A compensated student of three prototypes; ``options`` are the compensation's."""
    return KDCIStudent(
        convnet(spec),
        teacher,
        DistillationObjective(2.0),
        SGD,
        lr_scale=lr_scale,
        adjustment=BackdoorCompensation(
            loaded or dictionary(dim=spec.num_classes), num_classes=spec.num_classes, **options
        ),
    )


def job(folder: Path, precision: Any = "32-true", sync_batch_norm: bool = False) -> Job:
    """Runs fits as the program does."""
    options = TrainerOptions(
        accelerator="cpu",
        devices=1,
        nodes=1,
        precision=precision,
        channels_last=False,
        sync_batch_norm=sync_batch_norm,
        deterministic=False,
        progress=False,
    )
    config: Any = SimpleNamespace(trainer=options)
    dataset: Any = None
    identity: Any = None
    return Job(config, folder, dataset, CPU, identity)


def labelled(spec: ImageSpec, count: int = 12, **options: Any) -> LabelledBatches:
    """Images whose first channel tells the class."""
    labels = torch.arange(count) % spec.num_classes
    images = torch.randint(0, 40, (count, spec.channels, spec.image_size, spec.image_size))
    images[:, 0] += 60 * labels[:, None, None]
    return LabelledBatches(Split(images.byte(), labels), spec, 5, CPU, **options)


def states_equal(left: nn.Module, right: nn.Module) -> bool:
    """Whether all parameters and buffers are equal, bit for bit."""
    first, second = left.state_dict(), right.state_dict()
    tensors = [name for name, value in first.items() if isinstance(value, Tensor)]
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in tensors
    )
