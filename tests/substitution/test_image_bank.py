import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.common.augment import Augmentation, random_crop_flip
from src.dataset.contract import ImageSpec
from src.dataset.normalisation import Normalisation
from src.substitution.image_bank import ImageBank, banks_of

SHAPE = (3, 8, 8)
ROW_BYTES = 3 * 8 * 8


def pixels(count: int) -> Tensor:
    return torch.rand(count, *SHAPE)


def make(**options: Any) -> ImageBank:
    return ImageBank(SHAPE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), **options)


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def in_memory_and_mapped() -> list[ImageBank]:
    """Two banks of the same options, one of which outgrows memory at its first image."""
    return [make(augmentation=Augmentation(1, 0.5), mapped_above=size) for size in (10**9, 0)]


def test_pixels_are_floored_to_bytes() -> None:
    bank = make()
    levels = torch.tensor([0.0, 1 / 255, 1.999 / 255, 0.5, 254.999 / 255, 1.0, -3.0, 7.0])
    bank.append(levels.view(-1, 1, 1, 1).expand(-1, *SHAPE))
    assert bank.images.dtype == torch.uint8
    assert bank.images[:, 0, 0, 0].tolist() == [0, 1, 1, 127, 254, 255, 0, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pixels_of_half_precision_are_floored_as_exactly(dtype: torch.dtype) -> None:
    bank, levels = make(), torch.linspace(0, 1, 4001).to(dtype).unique()
    bank.append(levels.view(-1, 1, 1, 1).expand(-1, *SHAPE))
    expected = [math.floor(level * 255) for level in levels.tolist()]
    assert bank.images[:, 0, 0, 0].tolist() == expected


def test_bytes_stay_as_they_are() -> None:
    bank, images = make(), torch.randint(0, 256, (5, *SHAPE), dtype=torch.uint8)
    bank.append(images)
    assert torch.equal(bank.images, images)


def test_stored_pixels_survive_another_round() -> None:
    first, second = make(), make()
    first.append(torch.arange(256).repeat(3)[: 4 * ROW_BYTES].view(4, *SHAPE).byte())
    second.append(first.images.float() / 255)
    assert torch.equal(first.images, second.images)


@pytest.mark.parametrize("mapped_above", [10**9, 2000 * ROW_BYTES, 0])
def test_grows_without_losing_an_image(mapped_above: int) -> None:
    bank, parts = make(mapped_above=mapped_above), []
    for count in (1, 700, 0, 700, 3000):
        parts.append(torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8))
        bank.append(parts[-1])
        assert len(bank) == sum(map(len, parts))
    assert torch.equal(bank.images, torch.cat(parts))


def test_a_large_bank_equals_one_in_memory(tmp_path: Path) -> None:
    images, index = pixels(50), torch.tensor([3, 1, 49, 3])
    batches = []
    for name, bank in zip(("small", "large"), in_memory_and_mapped(), strict=True):
        for part in images.split(7):
            bank.append(part)
        bank.save(tmp_path / f"{name}.npy")
        batches.append([bank.images, bank.batch(index), bank.batch(index, draws())])
        batches[-1].append(bank.draw(6, draws()))
    assert all(map(torch.equal, *batches))
    assert (tmp_path / "small.npy").read_bytes() == (tmp_path / "large.npy").read_bytes()


def test_batches_are_what_the_teacher_expects(tiny_spec: ImageSpec) -> None:
    bank = ImageBank.of(tiny_spec, augmentation=Augmentation(1, 0.5))
    bank.append(pixels(9))
    index = torch.tensor([8, 0, 0])
    normalise = Normalisation.of(tiny_spec).from_uint8
    assert torch.equal(bank.batch(index), normalise(bank.images[index]))
    augmented = random_crop_flip(bank.images[index], 1, 0.5, draws())
    assert torch.equal(bank.batch(index, draws()), normalise(augmented))
    assert not torch.equal(bank.batch(index, draws()), bank.batch(index))


def test_a_bank_that_does_not_augment_draws_nothing() -> None:
    bank, generator = make(), draws()
    bank.append(pixels(9))
    before = generator.get_state()
    bank.batch(torch.arange(3), generator)
    assert torch.equal(generator.get_state(), before)


def test_images_are_drawn_uniformly_with_replacement() -> None:
    bank = make()
    bank.append(torch.arange(4).view(4, 1, 1, 1).expand(-1, *SHAPE).byte())
    drawn = bank.draw(4000, draws())[:, 0, 0, 0] * 0.2 + 0.5
    counts = (drawn * 255).round().long().bincount()
    assert len(counts) == 4
    assert (counts - 1000).abs().max() < 120


def test_whitened_images_are_kept_in_half_precision() -> None:
    bank = make(pixels=False, augmentation=Augmentation(1, 0.5))
    images = 5 * torch.randn(6, *SHAPE)
    bank.append(images)
    index = torch.tensor([5, 0])
    assert bank.images.dtype == torch.float16
    assert torch.equal(bank.batch(index), images.half()[index].float())
    assert bank.batch(index, draws()).dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("whitened", [False, True])
def test_images_that_are_not_finite_are_remembered(bad: float, whitened: bool) -> None:
    bank, images = make(pixels=not whitened), pixels(3)
    bank.append(images)
    bank.require_finite("Toy")
    images[1, 2, 3, 4] = bad
    bank.append(images)
    bank.append(pixels(2))
    with pytest.raises(FloatingPointError, match=r"Images of Toy are NaN or infinite.*; nothing"):
        bank.require_finite("Toy")
    assert len(bank) == 8


def test_a_whitened_image_beyond_half_precision_is_remembered() -> None:
    bank, images = make(pixels=False), pixels(3)
    images[0, 0, 0, 0] = 65504
    bank.append(images)
    bank.require_finite("Toy")
    images[0, 0, 0, 0] = 7e4
    bank.append(images)
    with pytest.raises(FloatingPointError, match=r"or exceed half precision \(65504\)"):
        bank.require_finite("Toy")


@pytest.mark.parametrize("whitened", [False, True])
def test_appending_never_waits_for_the_device(
    whitened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, images = make(pixels=not whitened), pixels(3)

    def forbidden(*_: object) -> None:
        raise AssertionError("a copy to the host")

    for name in ("item", "tolist", "__float__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, forbidden)
    bank.append(images)


def test_adopting_takes_over_what_is_known_of_the_images() -> None:
    bad, good = make(), make()
    bad.append(pixels(2) * float("nan"))
    good.append(pixels(2))
    bad.adopt(good)
    bad.require_finite("Toy")
    good.append(pixels(2) / 0.0)
    bad.require_finite("Toy")
    bad.adopt(good)
    with pytest.raises(FloatingPointError):
        bad.require_finite("Toy")


def test_what_is_stored_has_no_history() -> None:
    bank = make(pixels=False)
    bank.append(torch.randn(2, *SHAPE, requires_grad=True))
    assert not bank.images.requires_grad


def test_adopting_forgets_what_was_there_and_leaves_the_other_alone() -> None:
    bank, other = make(), make()
    bank.append(pixels(9))
    other.append(pixels(4))
    bank.adopt(other)
    assert torch.equal(bank.images, other.images)
    before = other.images.clone()
    bank.append(pixels(3))
    assert len(bank) == 7
    assert torch.equal(other.images, before)


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("mapped_above", [10**9, 0])
def test_an_interrupted_bank_goes_on(tmp_path: Path, whitened: bool, mapped_above: int) -> None:
    options: Any = {"pixels": not whitened, "mapped_above": mapped_above}
    bank, path = make(**options), tmp_path / "bank.bin"
    first, lost, second = (pixels(count) for count in (5, 3, 4))
    bank.append(first)
    bank.sync(path)
    committed = bank.state_dict()
    bank.append(lost)
    bank.sync(path)  # and then the machine stops, before the state is saved
    resumed = make(**options)
    resumed.load_state_dict(committed)
    resumed.restore(path)
    assert torch.equal(resumed.images, bank.images[:5])
    resumed.append(second)
    resumed.sync(path)
    last = make(**options)
    last.load_state_dict(resumed.state_dict())
    last.restore(path)
    assert torch.equal(last.images, resumed.images)
    assert path.stat().st_size == 9 * ROW_BYTES * (2 if whitened else 1)


def test_only_what_is_new_is_written(tmp_path: Path) -> None:
    bank, path = make(), tmp_path / "bank.bin"
    bank.append(pixels(3))
    bank.sync(path)
    path.write_bytes(b"\0" * 3 * ROW_BYTES)
    bank.append(pixels(2))
    bank.sync(path)
    written = path.read_bytes()
    assert written[: 3 * ROW_BYTES] == b"\0" * 3 * ROW_BYTES
    assert written[3 * ROW_BYTES :] == bank.images[3:].numpy().tobytes()


def test_an_old_file_is_overwritten_by_a_new_bank(tmp_path: Path) -> None:
    bank, path = make(), tmp_path / "bank.bin"
    path.write_bytes(b"left over" * 1000)
    bank.append(pixels(2))
    bank.sync(path)
    assert path.read_bytes() == bank.images.numpy().tobytes()


def test_another_file_gets_everything(tmp_path: Path) -> None:
    bank = make()
    bank.append(pixels(3))
    bank.sync(tmp_path / "stage_a.bin")
    bank.append(pixels(2))
    bank.sync(tmp_path / "stage_b.bin")
    assert (tmp_path / "stage_b.bin").read_bytes() == bank.images.numpy().tobytes()


def test_an_empty_bank_can_be_saved_and_restored(tmp_path: Path) -> None:
    make().sync(tmp_path / "bank.bin")
    resumed = make()
    resumed.load_state_dict(make().state_dict())
    resumed.restore(tmp_path / "bank.bin")
    assert len(resumed) == 0


def test_images_are_no_part_of_the_state() -> None:
    bank = make()
    bank.append(pixels(9))
    assert bank.state_dict() == {"_extra_state": {"length": 9}}


@pytest.mark.parametrize("mapped_above", [10**9, 0])
@pytest.mark.parametrize("whitened", [False, True])
def test_saving_and_loading_keeps_images_and_options(
    tmp_path: Path, whitened: bool, mapped_above: int
) -> None:
    bank = make(
        augmentation=Augmentation(2, 0.25, (0.5, 1.0)),
        pixels=not whitened,
        mapped_above=mapped_above,
    )
    bank.append(pixels(9))
    bank.save(tmp_path / "bank.npy")
    read = ImageBank.load(tmp_path / "bank.npy", bank.description())
    assert torch.equal(read.images, bank.images)
    assert torch.equal(read.batch(torch.arange(9), draws()), bank.batch(torch.arange(9), draws()))
    assert read.description() == bank.description()


def test_writing_to_a_loaded_bank_leaves_its_file_alone(tmp_path: Path) -> None:
    bank = make(mapped_above=0)
    bank.append(pixels(9))
    bank.save(tmp_path / "bank.npy")
    before = (tmp_path / "bank.npy").read_bytes()
    read = ImageBank.load(tmp_path / "bank.npy", bank.description())
    read.images.zero_()
    read.append(pixels(1))
    assert (tmp_path / "bank.npy").read_bytes() == before


def test_a_mapped_bank_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    make(mapped_above=0).append(pixels(3))
    assert list(tmp_path.iterdir()) == []


def test_banks_are_named_by_their_place() -> None:
    module = nn.ModuleList([make(), nn.Linear(2, 2), nn.ModuleList([make()])])
    found = banks_of(module)
    assert list(found) == ["bank0", "bank1"]
    assert found["bank0"] is module[0]
    assert banks_of(nn.Linear(2, 2)) == {}
