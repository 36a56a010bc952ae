"""What is timed: one round of a method, or one step of the student, as a run does them.

Only what has long been the same in `src` is used here, so that older revisions can be timed, too.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from src import naming
from src.config.check import check
from src.config.node import build, build_partial
from src.dataset.contract import ImageSpec, Pool
from src.network.classifier import Classifier
from src.network.wide_resnet import WideResNet
from src.objective.distillation import StudentOutput
from src.substitution.contract import advance
from src.teacher.frozen import FrozenTeacher

CLASSES, SIZE, IMAGES = 10, 32, 128
NAMES = ("student", "evaluation", "dafl", "fast", "cmi", "deepinv", "mosaickd")


class Noise(Pool):
    """A pool without a file."""

    name = "noise"
    statistics = ((0.5,) * 3, (0.25,) * 3)

    def unlabeled(self, image_size: int) -> Tensor:
        """512 images of noise."""
        draws = torch.Generator().manual_seed(0)
        return torch.randint(
            0, 256, (512, 3, image_size, image_size), generator=draws, dtype=torch.uint8
        )

    def count(self) -> int:
        """Images."""
        return 512

    def fingerprint(self) -> str:
        """None is needed."""
        return "noise"

    def sources(self) -> list[Any]:
        """No files."""
        return []


def work_of(name: str) -> Callable[[], object]:
    """One round of a method at laptop sizes (two inner steps), or ``student``, ``evaluation``.

    WRN-16-2 teaches WRN-16-1 on images of 32 pixels, channels_last, float32.
    """
    torch.manual_seed(0)
    few = {"fast": ["baseline.inner_steps=2"], "cmi": ["baseline.steps=2"]}
    few["deepinv"] = ["baseline.steps=2", "baseline.half_steps=0"]
    baseline = "dafl" if name in ("student", "evaluation") else name
    config = composed(baseline, ["budget=laptop", *few.get(name, [])])
    teacher, student = FrozenTeacher(network_of_width(2)), network_of_width(1)
    if name == "student":
        images = torch.randn(IMAGES, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
        return student_step(teacher, student, config, lambda: images)
    if name == "evaluation":
        return _evaluation(student)
    method = method_of(teacher, config, **({"pool": Noise()} if name == "mosaickd" else {}))
    return lambda: advance(method, student)


def composed(baseline: str, words: list[str]) -> Any:
    """The checked configuration of a command line."""
    root = Path(naming.__file__).parent.parent  # of the revision that is timed
    os.environ["KDCI_ROOT"] = str(root)
    with initialize_config_dir(str(root / "conf"), version_base="1.3"):
        return check(naming.resolved(compose("config", [f"baseline={baseline}", *words])))


def method_of(teacher: FrozenTeacher, config: Any, **more: Any) -> Any:
    """The configured method, in channels_last; ``more`` goes to its constructor."""
    spec = ImageSpec(CLASSES, SIZE, (0.5,) * 3, (0.25,) * 3)
    method = build(config.baseline, teacher=teacher, spec=spec, **more)
    return method.to(memory_format=torch.channels_last)


def network_of_width(width: int) -> Classifier:
    """WRN-16, in channels_last and in training."""
    network = WideResNet(depth=16, width=width, num_classes=CLASSES)
    with torch.no_grad():  # statistics that inversion can aim at
        network.train()(torch.randn(64, 3, SIZE, SIZE))
    network.to(memory_format=torch.channels_last)
    return network


def student_step(
    teacher: FrozenTeacher, student: Classifier, config: Any, batch: Callable[[], Tensor]
) -> Callable[[], object]:
    """A step of the student on a batch of images."""
    optimizer = build_partial(config.distill.optimizer)(student.parameters())
    kl, temperature = torch.nn.KLDivLoss(reduction="batchmean", log_target=True), 20.0

    def step() -> None:
        images = batch()
        with torch.no_grad():
            target = (teacher(images).logits / temperature).log_softmax(1)
        logits = student(images)
        output = StudentOutput(logits, logits)
        optimizer.zero_grad()
        loss = kl((output.logits / temperature).log_softmax(1), target)
        (temperature**2 * loss).backward()
        optimizer.step()

    return step


def _evaluation(student: Classifier) -> Callable[[], object]:
    images = torch.randn(1000, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)

    @torch.no_grad()
    def evaluate() -> None:
        for batch in images.split(64):
            student(batch)

    student.eval()
    return evaluate
