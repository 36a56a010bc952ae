"""Small students as runs leave them, and images of their classes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from src.deploy.save import save_student
from src.network.convnet import ConvNet

CLASSES = ("dark", "grey", "light")


def card(**changes: Any) -> dict[str, Any]:
    full = {
        "architecture": {"_target_": "src.network.convnet.ConvNet", "widths": [4, 8]},
        "class_names": list(CLASSES),
        "image_size": 8,
        "shorter_side": 8,
        "normalisation": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]},
        "accuracy": {"acc1": 80.0, "split": "test", "epoch": "last"},
    }
    return full | changes


def run_folder(folder: Path) -> Path:
    """A finished run's student, with statistics that are not the initial ones."""
    network = ConvNet([4, 8], num_classes=len(CLASSES)).train()
    network(torch.randn(64, 3, 8, 8))
    network.fc.weight.data.mul_(3)
    save_student(folder, network, card())
    return folder


def image_folder(folder: Path, each: int = 3) -> Path:
    """``folder/<class>/<number>.png``, of several sizes."""
    source = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            low = 80 * label
            values = source.integers(low, low + 90, (9 + number, 12, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / name / f"{number}.png")
    return folder
