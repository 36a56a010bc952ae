"""Paired timings: ``make bench``. Every pair alternates within one process; medians are shown.

What KDCI costs by the size of its dictionary is in :mod:`benchmarks.kdci_costs`.

1. What the compensation costs a student step.
2. What the image bank saves against a folder of PNG files behind a DataLoader.
3. What channels_last and bf16 autocast save in a student step.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from benchmarks.against import with_quartiles
from src.common.allocator import keep_freed_memory
from src.common.augment import Augmentation
from src.common.seeding import generator
from src.dataset.contract import ImageSpec
from src.kdci.compensation import BackdoorCompensation
from src.kdci.dictionary import ConfounderDictionary
from src.network.wide_resnet import WideResNet
from src.objective.distillation import kl_divergence
from src.pipeline.trainer import forbid_tf32
from src.report.console import console
from src.substitution.image_bank import ImageBank

_REPEATS, _BATCH, _CLASSES = 15, 128, 10
_SPEC = ImageSpec(_CLASSES, 32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def main() -> None:
    """Run all pairs and print one table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory()  # as a run does, and
    forbid_tf32()
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    title = f"{where}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    table = Table(box=SIMPLE_HEAD, title=title)
    for column in ("pair", "first, ms", "second, ms", "ratio (quartiles)"):
        table.add_column(column, justify="left" if column == "pair" else "right")
    with tempfile.TemporaryDirectory() as folder:
        pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "WRN-16-2 step: vanilla | KDCI, N=64": (
                student_step(device, num_prototypes=0),
                student_step(device, num_prototypes=64),
            ),
            "WRN-16-2 step: vanilla | KDCI, N=512": (
                student_step(device, num_prototypes=0),
                student_step(device, num_prototypes=512),
            ),
            "1024 images in batches: image bank | PNG files": (
                bank_batches(device),
                png_batches(device, Path(folder)),
            ),
            "WRN-16-2 step: contiguous | channels_last": (
                student_step(device),
                student_step(device, channels_last=True),
            ),
            "WRN-16-2 step: float32 | bf16, channels_last": (
                student_step(device),
                student_step(device, channels_last=True, bf16=True),
            ),
        }
        for name, (first, second) in pairs.items():
            table.add_row(name, *paired(first, second, device))
    console().print(table)


def paired(
    first: Callable[[], object],
    second: Callable[[], object],
    device: torch.device,
    *,
    repeats: int = _REPEATS,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[str, str, str]:
    """Alternate both; median milliseconds of each, and median and quartiles of second / first."""

    def milliseconds(action: Callable[[], object]) -> float:
        start = clock()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return 1000 * (clock() - start)

    for action in (first, second):
        milliseconds(action)
    times = [(milliseconds(first), milliseconds(second)) for _ in range(repeats)]
    ratio = with_quartiles(b / a for a, b in times)
    first_median, second_median = (statistics.median(side) for side in zip(*times, strict=True))
    return f"{first_median:.1f}", f"{second_median:.1f}", ratio


def student_step(
    device: torch.device,
    *,
    num_prototypes: int = 0,
    width: int = 2,
    channels_last: bool = False,
    bf16: bool = False,
    image_size: int = 32,
    batch_size: int | None = None,
) -> Callable[[], None]:
    """A whole student step against fixed teacher logits, compensated if N > 0."""
    network: nn.Module = WideResNet(depth=16, width=width, num_classes=_CLASSES).to(device)
    batch = batch_size or _BATCH
    images = torch.randn(batch, 3, image_size, image_size, device=device)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    compensation = compensation_of(num_prototypes).to(device) if num_prototypes else nn.Identity()
    parameters = [*network.parameters(), *compensation.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    teacher_logits = torch.randn(batch, _CLASSES, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            logits = network(images).float()
        loss = kl_divergence(compensation(logits), teacher_logits, 4.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def compensation_of(
    num_prototypes: int,
    num_classes: int = _CLASSES,
    expectation: Literal["geometric", "arithmetic"] = "geometric",
) -> BackdoorCompensation:
    """A compensation over random prototypes."""
    dictionary = ConfounderDictionary(
        torch.randn(num_prototypes, num_classes),
        torch.full((num_prototypes,), 1 / num_prototypes),
        torch.ones(num_prototypes, num_classes).long(),
        {},
    )
    return BackdoorCompensation(dictionary, num_classes=num_classes, expectation=expectation)


def _images() -> Tensor:
    return torch.randint(0, 256, (1024, 3, 32, 32), dtype=torch.uint8)


def bank_batches(device: torch.device) -> Callable[[], None]:
    """All 1024 images once, in batches, cropped, mirrored and normalised by the bank."""
    bank = ImageBank.of(_SPEC, augmentation=Augmentation(4, 0.5)).to(device)
    bank.append(_images())
    draws = generator(device, 0, "bench")

    def epoch() -> None:
        for index in torch.randperm(len(bank)).split(_BATCH):
            bank.batch(index, draws)

    return epoch


def png_batches(device: torch.device, folder: Path) -> Callable[[], None]:
    """The same from PNG files through a DataLoader without workers."""
    for number, image in enumerate(_images()):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    transform = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(_SPEC.mean, _SPEC.std),
        ]
    )
    paths = sorted(folder.iterdir())

    class Files(torch.utils.data.Dataset[Tensor]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Tensor:
            with Image.open(paths[index]) as image:
                transformed: Tensor = transform(image)
            return transformed

    loader = DataLoader(Files(), _BATCH, shuffle=True)

    def epoch() -> None:
        for batch in loader:
            batch.to(device)

    return epoch


if __name__ == "__main__":
    main()
