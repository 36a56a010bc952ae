"""Small folders of images, made on the spot."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.chaos.lab import SMALL_NETWORKS, Lab

CLASSES = ("cat", "dog", "owl")


def picture(seed: object, size: int = 16) -> Image.Image:
    """Noise that is always the same for a seed."""
    rng = np.random.default_rng(list(repr(seed).encode()))
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def write_images(root: Path, *, each: int = 8, classes: Sequence[str] = CLASSES) -> Path:
    """``root/{train,test}/<class>/*.png``."""
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for i in range(each):
                picture((split, name, i)).save(root / split / name / f"{i}.png")
    return root


def overrides_for(root: Path, *more: str) -> tuple[str, ...]:
    """A run on a folder of images."""
    return (
        "dataset=image_folder",
        f"dataset.root='{root}'",
        "dataset.image_size=16",
        "teacher=convnet_m",
        "student=convnet_s",
        *SMALL_NETWORKS,
        "budget=smoke",
        "teacher.fit.batch_size=8",
        "pool.num_images=300",
        "trainer.progress=false",
        "kdci.dictionary.iterations=5",
        *more,
    )


def shared_images(lab: Lab) -> Path:
    """A folder that no case changes."""
    return lab.once("images", lambda: write_images(lab.folder / "images"))
