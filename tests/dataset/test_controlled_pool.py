from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.dataset.controlled_pool import ControlledPool
from src.dataset.digits import Digits
from src.dataset.photo_patches import PhotoPatches

DIGITS = Digits()


def make(**options: Any) -> ControlledPool:
    return ControlledPool(of=DIGITS, **({"num_images": 300} | options))


def labels_of(images: Tensor) -> list[int]:
    """Classes of training images, found again by their pixels."""
    train = DIGITS.train()
    by_pixels = {
        image.numpy().tobytes(): int(label)
        for image, label in zip(train.images, train.labels, strict=True)
    }
    return [by_pixels[image.numpy().tobytes()] for image in images]


@pytest.mark.parametrize("ratio", [1, 2, 5, 20, 100])
def test_classes_have_their_shares(ratio: float) -> None:
    images = make(class_ratio=ratio).unlabeled(32)
    counts = torch.bincount(torch.tensor(labels_of(images)), minlength=10)
    shares = ratio ** -(torch.arange(10) / 9)
    expected = 300 * shares / shares.sum()
    assert len(images) == 300
    assert ((counts - expected).abs() < 1).all()
    assert counts[0] / counts[9] == pytest.approx(ratio, rel=0.35)


def test_no_image_comes_twice_and_classes_are_mixed() -> None:
    images = make(class_ratio=5).unlabeled(32)
    assert len(images.flatten(1).unique(dim=0)) > 0.97 * len(images)  # some digits are twins
    assert len(set(labels_of(images[:40]))) > 5


def test_an_even_pool_keeps_its_images_whatever_the_noise() -> None:
    sharp, noisy = make().unlabeled(32), make(noise=20.0).unlabeled(32)
    error = noisy.float() - sharp.float()
    inner = (sharp > 80) & (sharp < 175)
    assert error[inner].std() == pytest.approx(20, rel=0.1)
    assert torch.equal(noisy, make(noise=20.0).unlabeled(32))


def test_blur_takes_away_detail_but_not_brightness() -> None:
    sharp, blurred = (make(blur=blur).unlabeled(32).float() for blur in (0.0, 2.0))
    assert blurred.mean() == pytest.approx(float(sharp.mean()), rel=0.05)
    assert blurred.diff(dim=3).abs().mean() < 0.9 * sharp.diff(dim=3).abs().mean()


def test_a_blur_wider_than_the_image_leaves_hardly_a_digit() -> None:
    blurred = make(blur=30.0).unlabeled(32).float()
    assert (
        blurred.std(dim=(2, 3)).mean() < 0.1 * make().unlabeled(32).float().std(dim=(2, 3)).mean()
    )


def test_foreign_images_stand_in_the_place_of_some() -> None:
    other = PhotoPatches(num_images=200)
    pure, mixed = make().unlabeled(32), make(foreign=0.25, other=other).unlabeled(32)
    assert torch.equal(mixed[75:], pure[75:])
    patches = {patch.numpy().tobytes() for patch in other.unlabeled(32)}
    assert all(image.numpy().tobytes() in patches for image in mixed[:75])


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(UserError, match=r"of class 0 for pool.class_ratio=100 and pool.num_ima"):
        make(num_images=600, class_ratio=100).unlabeled(32)
    with pytest.raises(UserError, match=r"; lower pool\.num_images or pool\.class_ratio$"):
        make(num_images=600, class_ratio=100).unlabeled(32)
    with pytest.raises(UserError, match=r"class_ratio=1 .*; lower pool\.num_images$"):
        make(num_images=60_000).unlabeled(32)
    with pytest.raises(UserError, match=r"pool.other with pool.foreign=0.5"):
        make(foreign=0.5)
    with pytest.raises(UserError, match=r"at least 150 images in pool.other"):
        make(foreign=0.5, other=PhotoPatches(num_images=100)).unlabeled(32)


def test_more_images_than_there_are_at_all_are_refused_unread() -> None:
    found = DIGITS.count()
    assert make(num_images=found).count() == found
    expected = rf"pool\.num_images <= .* but got {found + 1} > {found}; lower pool\.num_images$"
    with pytest.raises(UserError, match=expected):
        make(num_images=found + 1).count()


def test_every_option_shapes_the_fingerprint() -> None:
    other = PhotoPatches(num_images=100)
    changed: list[dict[str, Any]] = [
        {},
        {"num_images": 200},
        {"class_ratio": 2.0},
        {"blur": 1.0},
        {"noise": 1.0},
        {"foreign": 0.1, "other": other},
        {"foreign": 0.1, "other": PhotoPatches(num_images=101)},
        {"seed": 1},
    ]
    assert len({make(**options).fingerprint() for options in changed}) == len(changed)
    assert make(other=other).fingerprint() == make().fingerprint()


def test_noise_is_rounded_and_so_leaves_the_brightness() -> None:
    sharp, noisy = make().unlabeled(32), make(noise=5.0).unlabeled(32)
    inner = (sharp > 40) & (sharp < 215)
    assert abs(float((noisy.float() - sharp.float())[inner].mean())) < 0.25


def test_a_point_is_blurred_to_the_width_that_was_asked_for(monkeypatch: Any) -> None:
    point = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    point[..., 16, :] = 255  # a line, whose cut is the kernel
    pool = make(blur=2.0)
    monkeypatch.setattr(type(pool.of), "unlabeled", lambda self, size: point)
    monkeypatch.setattr(type(pool), "_chosen", lambda self: torch.tensor([0]))
    cut = pool.unlabeled(32)[0, 0, :, 16].double()
    variance = ((torch.arange(32) - 16) ** 2 * cut).sum() / cut.sum()
    assert float(variance) == pytest.approx(4, rel=0.1)


def grey(monkeypatch: pytest.MonkeyPatch, level: int, **options: Any) -> Tensor:
    """What a pool of five images of one grey makes of them, less that grey."""
    images = torch.full((5, 3, 32, 32), level, dtype=torch.uint8)
    monkeypatch.setattr(Digits, "unlabeled", lambda self, size: images)
    monkeypatch.setattr(ControlledPool, "_chosen", lambda self: torch.arange(5))
    return make(**options).unlabeled(32).double() - level


def test_noise_is_that_of_its_seed_and_of_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    first = grey(monkeypatch, 128, noise=20.0)
    torch.manual_seed(7)  # of which it is no matter
    assert torch.equal(grey(monkeypatch, 128, noise=20.0), first)
    other = grey(monkeypatch, 128, noise=20.0, seed=1)
    # All of them, and their channels, are drawn apart: no two go together.
    drawn = torch.cat([first, other]).flatten(0, 1).flatten(1)
    alike = torch.corrcoef(drawn) - torch.eye(len(drawn))
    assert alike.abs().max() < 0.15  # standard deviation 1/32
    torch.testing.assert_close(drawn.std(1), torch.full((30,), 20.0).double(), rtol=0.1, atol=0)


@pytest.mark.parametrize(("level", "sign"), [(0, 1), (255, -1)])
def test_noise_ends_where_grey_levels_do(
    monkeypatch: pytest.MonkeyPatch, level: int, sign: int
) -> None:
    change = sign * grey(monkeypatch, level, noise=20.0)
    assert (change == 0).double().mean() == pytest.approx(0.51, abs=0.02)
    assert 0 <= change.min() < change.max() < 6 * 20


def test_noise_is_not_blurred(monkeypatch: pytest.MonkeyPatch) -> None:
    change = grey(monkeypatch, 128, noise=20.0, blur=2.0)
    assert change.std() == pytest.approx(20, rel=0.05)
