import faulthandler
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def bounded() -> Iterator[None]:
    """Ends the process when a test hangs: reading a pipe cannot be interrupted otherwise."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def pixels(seed: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Random RGB pixels ``[H, W, 3]`` uint8."""
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def save() -> Callable[..., np.ndarray]:
    """Saves a random image without loss, and returns its pixels."""

    def save_image(path: Path, seed: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = pixels(seed, size)
        Image.fromarray(image).save(path, "PNG")
        return image

    return save_image


@pytest.fixture
def grow(save) -> Callable[..., None]:
    """Fills ``folder/<class>/`` with images; each seed is used once."""

    def grow_classes(
        folder: Path, classes: tuple[str, ...], each: int = 2, first_seed: int = 0, size: int = 32
    ) -> None:
        seed = first_seed
        for name in classes:
            for number in range(each):
                save(folder / name / f"{number}.png", seed, (size, size))
                seed += 1

    return grow_classes
