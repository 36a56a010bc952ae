import torch
from torch import Tensor

from src.dataset.statistics import measure


def test_large_images_are_measured_a_few_at_a_time(monkeypatch):
    double, sizes = Tensor.double, []

    def spy(part):
        sizes.append(part.numel())
        return double(part)

    monkeypatch.setattr(Tensor, "double", spy)
    images = torch.full((60, 3, 224, 224), 51, dtype=torch.uint8)
    assert torch.tensor(measure(images)[0]).allclose(torch.tensor(0.2))
    assert sum(sizes) == images.numel()
    assert max(sizes) <= 2**22


def test_small_images_are_summed_in_parts_of_1024():
    images = torch.randint(256, (1500, 3, 32, 32), dtype=torch.uint8)
    parts = [part.double() / 255 for part in images.split(1024)]
    total = sum(part.sum(dim=(0, 2, 3)) for part in parts)
    assert list(measure(images)[0]) == (total / (images.numel() / 3)).tolist()


def test_an_image_above_the_part_is_measured_alone():
    mean, std = measure(torch.full((2, 3, 1300, 1300), 255, dtype=torch.uint8))
    assert (mean, std) == ((1.0,) * 3, (0.0,) * 3)


def test_mean_and_deviation_are_those_of_all_pixels_of_a_channel():
    images = torch.randint(256, (1500, 3, 8, 8), dtype=torch.uint8)
    images[:, 1] //= 2
    pixels = images.double() / 255
    mean, std = measure(images)
    torch.testing.assert_close(torch.tensor(mean, dtype=torch.double), pixels.mean((0, 2, 3)))
    torch.testing.assert_close(
        torch.tensor(std, dtype=torch.double),
        pixels.transpose(0, 1).flatten(1).std(1, correction=0),
    )
