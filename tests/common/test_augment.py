from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from src.common import augment
from src.common.augment import Augmentation, random_crop_flip, random_resized_crop, roll_flip
from tests.reference import augment as reference

SCALE, RATIO = (0.25, 1.0), (3 / 4, 4 / 3)


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def crop_parameters(images: Tensor, padding: int, seed: int) -> list[tuple[int, int, bool]]:
    """Find each image's crop by trying all of them on images whose pixels are all different."""
    batch, _, height, width = images.shape
    numbered = 1.0 + torch.arange(height * width).view(1, 1, height, width).expand(
        batch, 1, -1, -1
    )
    outputs = random_crop_flip(numbered, padding, 0.5, seeded(seed))
    span = range(2 * padding + 1)
    candidates = {(y, x, m) for y in span for x in span for m in (False, True)}
    crops = {c: reference.crop_flip(numbered[0], padding, *c) for c in candidates}
    return [next(c for c in candidates if torch.equal(crops[c], out)) for out in outputs]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_crop_is_a_slice_of_the_zero_padded_image(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    images = torch.randint(256, (12, 3, 6, 8)).to(dtype).contiguous(memory_format=layout)
    crops = random_crop_flip(images, 2, 0.5, seeded(1))
    parameters = crop_parameters(images, 2, seed=1)
    expected = [reference.crop_flip(i, 2, *p) for i, p in zip(images, parameters, strict=True)]
    assert crops.dtype == dtype
    assert torch.equal(crops, torch.stack(expected))
    assert crops.is_contiguous(memory_format=layout)


def test_strided_images_and_a_single_channel_are_cropped_alike() -> None:
    images = torch.rand(6, 8, 8, 4).permute(0, 3, 1, 2)[:, ::2]
    crops = random_crop_flip(images, 2, 0.5, seeded(1))
    assert torch.equal(crops, random_crop_flip(images.contiguous(), 2, 0.5, seeded(1)))
    grey = random_crop_flip(images[:, :1], 2, 0.5, seeded(1))
    assert torch.equal(grey, crops[:, :1])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_crop_gradient_equals_that_of_the_slices(layout: torch.memory_format) -> None:
    images = torch.randn(12, 3, 6, 8, dtype=torch.float64).contiguous(memory_format=layout)
    images.requires_grad_()
    weights = torch.randn(12, 3, 6, 8, dtype=torch.float64)
    parameters = crop_parameters(images, 2, seed=1)
    expected = [reference.crop_flip(i, 2, *p) for i, p in zip(images, parameters, strict=True)]
    (actual,) = torch.autograd.grad(
        (weights * random_crop_flip(images, 2, 0.5, seeded(1))).sum(), images
    )
    (slow,) = torch.autograd.grad((weights * torch.stack(expected)).sum(), images)
    torch.testing.assert_close(actual, slow)


def test_all_offsets_and_both_orientations_are_equally_likely() -> None:
    parameters = crop_parameters(torch.empty(4000, 1, 4, 4), 1, seed=0)
    counts = [parameters.count(p) for p in set(parameters)]
    assert len(counts) == 3 * 3 * 2
    expected = 4000 / 18  # standard deviation 14.5
    assert all(abs(count - expected) < 5 * 14.5 for count in counts)


@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_without_padding_only_the_mirroring_remains(mirror: float) -> None:
    images = torch.rand(5, 3, 4, 6)
    expected = images.flip(3) if mirror else images
    assert torch.equal(random_crop_flip(images, 0, mirror, seeded()), expected)


@pytest.mark.parametrize(
    "augment",
    [
        lambda x, g: random_crop_flip(x, 4, 0.5, g),
        lambda x, g: random_resized_crop(x, 8, SCALE, RATIO, g),
        lambda x, g: roll_flip(x, 2, 0.5, g),
    ],
)
def test_randomness_comes_from_the_generator_alone(
    augment: Callable[[Tensor, Generator], Tensor],
) -> None:
    images, generator = torch.rand(16, 3, 8, 8), seeded(3)
    before = torch.get_rng_state()
    first, second = augment(images, generator), augment(images, generator)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(augment(images, seeded(3)), first)
    assert not torch.equal(first, second)


def find_boxes(
    count: int,
    height: int,
    width: int,
    seed: int,
    scale: tuple[float, float] = SCALE,
    ratio: tuple[float, float] = RATIO,
) -> list[list[int]]:
    """Read the boxes off images of coordinates, where resizing keeps the corners."""
    rows = torch.arange(height).double().view(-1, 1).expand(height, width)
    columns = torch.arange(width).double().expand(height, width)
    coordinates = torch.stack([rows, columns]).expand(count, -1, -1, -1)
    resized = random_resized_crop(coordinates, 5, scale, ratio, seeded(seed))
    start, end = resized[:, :, 0, 0].round(), resized[:, :, -1, -1].round()
    return torch.cat([start, end - start + 1], dim=1).int().tolist()


@pytest.mark.parametrize("size", [7, 16, 1])
def test_resized_crop_equals_slicing_and_interpolating(size: int) -> None:
    images = torch.randn(8, 3, 12, 16, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(8, 3, size, size, dtype=torch.float64)
    actual = random_resized_crop(images, size, SCALE, RATIO, seeded(4))
    expected = reference.crop_resize(images, find_boxes(8, 12, 16, seed=4), size)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad((weights * actual).sum(), images),
        torch.autograd.grad((weights * expected).sum(), images),
    )


def test_boxes_keep_to_scale_and_ratio_up_to_whole_pixels() -> None:
    boxes = find_boxes(1000, 32, 32, seed=0)
    assert len({tuple(box) for box in boxes}) > 500
    for top, left, height, width in boxes:
        assert 0 <= top <= 32 - height
        assert 0 <= left <= 32 - width
        assert (height + 0.5) * (width + 0.5) >= 0.25 * 32 * 32
        assert (width - 0.5) / (height + 0.5) <= 4 / 3
        assert (width + 0.5) / (height - 0.5) >= 3 / 4


def test_boxes_are_distributed_as_torchvision_draws_them() -> None:
    scale, ratio = (0.1, 0.4), (1 / 4, 4)  # wide, so that the law of the ratio shows
    image = torch.empty(1, 24, 32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.tensor(
            [RandomResizedCrop.get_params(image, [*scale], [*ratio]) for _ in range(2000)]
        ).float()
    ours = torch.tensor(find_boxes(2000, 24, 32, 0, scale, ratio)).float()
    standard_error = (2 * theirs.var(dim=0) / 2000).sqrt()
    assert ((ours.mean(dim=0) - theirs.mean(dim=0)).abs() < 4 * standard_error).all()
    torch.testing.assert_close(ours.std(dim=0), theirs.std(dim=0), rtol=0.1, atol=0.0)


@pytest.mark.parametrize(
    ("height", "width", "box"), [(8, 32, (8, 11)), (32, 8, (11, 8)), (8, 8, (8, 8))]
)
def test_where_no_try_fits_the_largest_allowed_box_is_taken(
    height: int, width: int, box: tuple[int, int]
) -> None:
    boxes = find_boxes(50, height, width, seed=0, scale=(1.5, 2.0))
    assert {tuple(b[2:]) for b in boxes} == {box}


def test_resized_crop_of_bytes_rounds_and_of_bfloat16_computes_in_float32() -> None:
    images = torch.randint(256, (6, 3, 8, 8))
    exact = random_resized_crop(images.double(), 8, SCALE, RATIO, seeded())
    pixels = random_resized_crop(images.to(torch.uint8), 8, SCALE, RATIO, seeded())
    assert pixels.dtype == torch.uint8
    assert (pixels.double() - exact).abs().max() <= 0.5 + 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wide = random_resized_crop(images.float(), 8, SCALE, RATIO, seeded())
        narrow = random_resized_crop(images.bfloat16(), 8, SCALE, RATIO, seeded())
    torch.testing.assert_close(wide, exact.float(), rtol=0, atol=1e-3)
    assert narrow.dtype == torch.bfloat16


def test_the_whole_box_is_a_plain_resize() -> None:
    images = torch.rand(3, 2, 8, 8)
    whole = random_resized_crop(images, 12, (1.0, 1.0), (1.0, 1.0), seeded())
    expected = F.interpolate(images, size=(12, 12), mode="bilinear", align_corners=True)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-5)


def test_roll_flip_is_one_roll_for_all_and_reaches_every_offset() -> None:
    images, generator = torch.rand(2, 1, 5, 5), seeded()
    candidates = {
        (down, right, mirrored): images.roll((down, right), (2, 3)).flip([3] * mirrored)
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
        for mirrored in (0, 1)
    }
    seen = set()
    for _ in range(300):
        rolled = roll_flip(images, 1, 0.5, generator)
        seen.add(next(key for key, image in candidates.items() if torch.equal(image, rolled)))
    assert seen == set(candidates)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_roll_flip_keeps_the_memory_layout(layout: torch.memory_format) -> None:
    images = torch.rand(2, 3, 8, 6)
    rolled = roll_flip(images.contiguous(memory_format=layout), 4, 0.5, seeded(2))
    assert rolled.is_contiguous(memory_format=layout)
    assert torch.equal(rolled, roll_flip(images, 4, 0.5, seeded(2)))


def test_roll_flip_passes_every_gradient_once() -> None:
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    weights = torch.rand(2, 3, 8, 8)
    (gradient,) = torch.autograd.grad(
        (weights * roll_flip(images, 4, 0.5, seeded())).sum(), images
    )
    torch.testing.assert_close(gradient.flatten().sort()[0], weights.flatten().sort()[0])


def test_zero_shift_without_mirroring_changes_nothing() -> None:
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(roll_flip(images, 0, 0.0, seeded()), images)


def test_a_training_transform_crops_then_mirrors() -> None:
    images = torch.rand(6, 3, 8, 8)
    padded = random_crop_flip(images, 2, 0.5, seeded(3))
    assert torch.equal(Augmentation(2, 0.5)(images, seeded(3)), padded)
    draws = seeded(3)
    resized = random_crop_flip(random_resized_crop(images, 8, SCALE, RATIO, draws), 0, 0.5, draws)
    assert torch.equal(Augmentation(2, 0.5, SCALE)(images, seeded(3)), resized)
    assert Augmentation()(images, seeded(3)) is images


def test_boxes_reach_all_four_borders():
    draws = torch.full((4, 2, 10), 0.5)
    draws[2:, 0], draws[2:, 1] = 0.0, 1 - 1e-6
    top, left, height, width = augment._boxes(draws, 8, 8, (0.25, 0.25), (1.0, 1.0))
    assert (top.tolist(), left.tolist()) == ([0, 4], [0, 4])
    assert height.tolist() == width.tolist() == [4, 4]


def test_an_image_without_a_box_that_fits_has_the_largest_whatever_the_others_have() -> None:
    draws = torch.zeros(4, 2, 10)
    draws[0, 0] = 1.0  # all of the area as a box of 9 x 7
    boxes = augment._boxes(draws, 8, 8, (0.25, 1.0), (3 / 4, 4 / 3))
    assert boxes.T.tolist() == [[0, 0, 8, 8], [0, 0, 5, 3]]
