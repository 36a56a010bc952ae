from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.report.grid import save_image_grid


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_images_lie_row_by_row_and_are_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    levels = torch.tensor([10, 20, 30, 40, 50], dtype=torch.uint8)
    images = levels.view(5, 1, 1, 1).expand(5, 3, 10, 10)
    path = tmp_path / "grid.png"
    save_image_grid(images, path, columns=3)
    pixels = read(path)
    cell = 13 * 10 + 2  # 384 / (3 * 10) rounded up, times 10 pixels, and the padding
    assert pixels.shape == (2 * cell + 2, 3 * cell + 2, 3)
    centres = [
        [pixels[row * cell + cell // 2, column * cell + cell // 2, 0] for column in range(3)]
        for row in range(2)
    ]
    assert centres == [[10, 20, 30], [40, 50, 255]]


def test_pixels_are_kept_exactly(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (1, 3, 400, 400), dtype=torch.uint8)
    save_image_grid(image, tmp_path / "grid.png", columns=4)
    assert np.array_equal(read(tmp_path / "grid.png"), image[0].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("repeats", [1, 12])
def test_caption_adds_written_lines_below_and_leaves_the_grid_alone(
    tmp_path: Path, repeats: int
) -> None:
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    save_image_grid(images, tmp_path / "plain.png", columns=2)
    caption = "Patches of a photograph by its author, CC BY 2.0. " * repeats
    save_image_grid(images, tmp_path / "captioned.png", columns=2, caption=caption)
    plain, captioned = read(tmp_path / "plain.png"), read(tmp_path / "captioned.png")
    assert np.array_equal(captioned[: len(plain)], plain)
    below = captioned[len(plain) :]
    assert below.min() < 128
    assert below[:, -1].min() == 255  # no text runs out of the picture
    assert len(below) > 16 * repeats


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 3, 8, 8, dtype=torch.uint8),
    ],
    ids=["float", "no batch", "empty"],
)
def test_anything_but_a_uint8_batch_is_refused(tmp_path: Path, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"Expected `images` \[N, C, H, W\] uint8"):
        save_image_grid(images, tmp_path / "grid.png", columns=2)
    assert list(tmp_path.iterdir()) == []
