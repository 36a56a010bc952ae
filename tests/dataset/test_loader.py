from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.dataset import loader
from src.dataset.contract import ImageSpec, Split
from src.dataset.loader import LabelledBatches
from src.dataset.normalisation import Normalisation
from tests.toys import CPU


def numbered(count: int) -> Split:
    """Image k shows k in every pixel and has label k."""
    labels = torch.arange(count)
    return Split(labels.byte().view(-1, 1, 1, 1).repeat(1, 3, 8, 8), labels)


def make(spec: ImageSpec, count: int, size: int = 4, **options: Any) -> LabelledBatches:
    return LabelledBatches(numbered(count), spec, size, CPU, **options)


def labels(batches: LabelledBatches) -> list[int]:
    return [label for _, batch in batches for label in batch.tolist()]


def images(batches: LabelledBatches) -> Tensor:
    return torch.cat([batch for batch, _ in batches])


def test_every_rank_needs_an_image(tiny_spec: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "world_size", lambda: 4)
    make(tiny_spec, 4)
    with pytest.raises(UserError, match="each of 4 ranks, but got a test split of 3"):
        make(tiny_spec, 3)


@pytest.mark.parametrize(("image", "label"), [(torch.float32, torch.int64), (torch.uint8, None)])
def test_images_that_are_scaled_already_are_refused(
    tiny_spec: ImageSpec, image: torch.dtype, label: torch.dtype | None
) -> None:
    split = numbered(4)
    other = Split(split.images.to(image), split.labels.to(label or torch.int32))
    with pytest.raises(UserError, match="Expected uint8 images and int64 labels of a data set"):
        LabelledBatches(other, tiny_spec, 4, CPU)


def test_evaluation_sees_every_image_once_in_order(tiny_spec: ImageSpec) -> None:
    batches = make(tiny_spec, 10)
    assert [len(batch) for batch, _ in batches] == [4, 4, 2]
    assert len(batches) == 3
    assert labels(batches) == list(range(10))
    expected = Normalisation.of(tiny_spec).from_uint8(batches.split.images)
    assert torch.equal(images(batches), expected)


def test_training_shuffles_and_drops_the_incomplete_batch(tiny_spec: ImageSpec) -> None:
    batches = make(tiny_spec, 10, training=True)
    seen = labels(batches)
    assert len(batches) == 2
    assert len(seen) == len(set(seen)) == 8
    assert seen != sorted(seen)


def test_a_split_smaller_than_a_batch_still_trains(tiny_spec: ImageSpec) -> None:
    batches = make(tiny_spec, 3, training=True)
    assert len(batches) == 1
    assert sorted(labels(batches)) == [0, 1, 2]


def test_images_and_labels_stay_together(tiny_spec: ImageSpec) -> None:
    normalisation = Normalisation.of(tiny_spec)
    for batch, targets in make(tiny_spec, 40, training=True):
        levels = (normalisation.inverse(batch) * 255).round()
        assert torch.equal(levels.amax(dim=(1, 2, 3)).long(), targets)


def test_epochs_differ_and_repeat_from_the_seed(tiny_spec: ImageSpec) -> None:
    first, again = (make(tiny_spec, 40, training=True) for _ in range(2))
    epochs = [[images(batches) for _ in range(2)] for batches in (first, again)]
    assert all(map(torch.equal, *epochs))
    assert not torch.equal(*epochs[0])
    assert not torch.equal(epochs[0][0], images(make(tiny_spec, 40, training=True, seed=1)))


def test_starts_at_any_epoch(tiny_spec: ImageSpec) -> None:
    straight, resumed = (make(tiny_spec, 40, training=True) for _ in range(2))
    epochs = [images(straight) for _ in range(3)]
    resumed.epoch = 2
    assert torch.equal(images(resumed), epochs[2])


def test_depends_on_nothing_that_was_drawn_elsewhere(tiny_spec: ImageSpec) -> None:
    before = torch.get_rng_state()
    first = images(make(tiny_spec, 40, training=True))
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    assert torch.equal(images(make(tiny_spec, 40, training=True)), first)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [7, 8, 9, 23])
def test_ranks_share_the_split(
    tiny_spec: ImageSpec, monkeypatch: pytest.MonkeyPatch, training: bool, count: int
) -> None:
    monkeypatch.setattr(loader, "world_size", lambda: 2)
    shares, lengths = [], []
    for rank in range(2):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        batches = make(tiny_spec, count, size=3, training=training)
        shares.append(labels(batches))
        lengths.append((len(batches), len(list(batches))))
    assert not set(shares[0]) & set(shares[1])
    assert all(announced == given for announced, given in lengths)
    if training:
        assert len(shares[0]) == len(shares[1])
        assert lengths[0] == lengths[1]
    else:
        assert sorted(shares[0] + shares[1]) == list(range(count))


def test_ranks_augment_apart(tiny_spec: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    one = torch.randint(0, 256, (1, 3, 8, 8)).byte()
    same = Split(one.repeat(16, 1, 1, 1), torch.zeros(16, dtype=torch.int64))
    monkeypatch.setattr(loader, "world_size", lambda: 2)
    seen = []
    for rank in range(2):
        monkeypatch.setattr(loader, "rank", lambda rank=rank: rank)
        seen.append(images(LabelledBatches(same, tiny_spec, 8, CPU, training=True)))
    assert not torch.equal(*seen)


def test_epochs_are_augmented_apart(tiny_spec: ImageSpec) -> None:
    one = torch.randint(0, 256, (1, 3, 8, 8)).byte()
    same = Split(one.repeat(16, 1, 1, 1), torch.zeros(16, dtype=torch.int64))
    batches = LabelledBatches(same, tiny_spec, 8, CPU, training=True)
    assert not torch.equal(images(batches), images(batches))
