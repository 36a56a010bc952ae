from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.common.augment import Augmentation
from src.common.errors import UserError
from src.dataset.contract import ImageSpec
from src.substitution.batches import (
    OnlineBatches,
    OnlineRounds,
    ReplayBatches,
    held_out_rows,
)
from src.substitution.image_bank import ImageBank
from src.teacher.frozen import FrozenTeacher
from tests.toys import Toy, job, labelled, student


def numbered(spec: ImageSpec, count: int, first: int = 0, **options: Any) -> ImageBank:
    """A bank whose images show their number in every pixel."""
    bank = ImageBank.of(spec, **options)
    numbers = torch.arange(first, first + count, dtype=torch.uint8)
    bank.append(numbers.view(-1, 1, 1, 1).expand(-1, 3, 8, 8))
    return bank


def numbers(bank: ImageBank, batch: Tensor) -> list[int]:
    pixels = bank.normalisation.inverse(batch)[:, 0, 0, 0] * 255
    result: list[int] = pixels.round().long().tolist()
    return result


def replay(banks: list[ImageBank], size: int = 4, steps: int = 5, seed: int = 0) -> ReplayBatches:
    return ReplayBatches(banks, size, steps, seed)


def test_an_epoch_has_its_steps_whatever_the_bank(tiny_spec: ImageSpec) -> None:
    for count in (1, 7, 200):
        batches = list(replay([numbered(tiny_spec, count)]))
        assert [len(batch) for batch in batches] == [4] * 5


def test_no_image_comes_twice_before_all_came_once(tiny_spec: ImageSpec) -> None:
    bank = numbered(tiny_spec, 8)
    seen = [number for batch in replay([bank]) for number in numbers(bank, batch)]
    assert sorted(seen[:8]) == sorted(seen[8:16]) == list(range(8))
    assert seen[:8] != seen[8:16]
    assert len(seen) == 20


def test_repeats_bit_for_bit_and_never_between_epochs(tiny_spec: ImageSpec) -> None:
    bank = numbered(tiny_spec, 30, augmentation=Augmentation(1, 0.5))
    first, again = replay([bank]), replay([bank])
    epochs = [[torch.cat(list(batches)) for _ in range(2)] for batches in (first, again)]
    assert all(map(torch.equal, *epochs))
    assert not torch.equal(*epochs[0])
    assert not torch.equal(epochs[0][0], torch.cat(list(replay([bank], seed=1))))


def test_one_image_is_augmented_anew_every_epoch(
    tiny_spec: ImageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = ImageBank.of(tiny_spec, augmentation=Augmentation(1, 0.5))
    bank.append(torch.rand(1, 3, 8, 8))
    batches = replay([bank])
    epochs = [torch.cat(list(batches)) for _ in range(2)]
    monkeypatch.setattr("src.substitution.batches.rank", lambda: 1)
    epochs.append(torch.cat(list(replay([bank]))))  # and on every rank
    assert len({tuple(epoch.flatten().tolist()) for epoch in epochs}) == 3


def test_starts_at_any_epoch(tiny_spec: ImageSpec) -> None:
    bank = numbered(tiny_spec, 30, augmentation=Augmentation(1, 0.5))
    straight, resumed = replay([bank]), replay([bank])
    epochs = [torch.cat(list(straight)) for _ in range(3)]
    resumed.epoch = 2
    assert torch.equal(torch.cat(list(resumed)), epochs[2])


def test_depends_on_nothing_that_was_drawn_elsewhere(tiny_spec: ImageSpec) -> None:
    bank = numbered(tiny_spec, 30, augmentation=Augmentation(1, 0.5))
    before = torch.get_rng_state()
    first = torch.cat(list(replay([bank])))
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    assert torch.equal(torch.cat(list(replay([bank]))), first)


def test_banks_share_every_batch_equally(tiny_spec: ImageSpec) -> None:
    banks = [numbered(tiny_spec, 30), numbered(tiny_spec, 3, first=100)]
    for batch in replay(banks, size=6):
        found = numbers(banks[0], batch)
        assert all(number < 30 for number in found[:3])
        assert sorted(found[3:]) == [100, 101, 102]


def test_banks_are_ordered_apart(tiny_spec: ImageSpec) -> None:
    banks = [numbered(tiny_spec, 30), numbered(tiny_spec, 30)]
    batch = next(iter(replay(banks, size=30)))
    assert not torch.equal(*batch.split(15))


def test_many_passes_over_a_small_bank_make_an_epoch(tiny_spec: ImageSpec) -> None:
    (bank,) = banks = [numbered(tiny_spec, 2)]  # minutes, if each pass counted all before it
    batches = ReplayBatches(banks, 256, 100, seed=0)
    order = batches._order(0)
    assert order.shape == (100, 256)
    assert order.flatten().bincount().tolist() == [12800, 12800]
    assert len(bank) == 2


def test_of_an_odd_batch_the_first_bank_gives_one_more(tiny_spec: ImageSpec) -> None:
    banks = [numbered(tiny_spec, 30), numbered(tiny_spec, 30, 100)]
    for batch in replay(banks, size=5):
        found = [number >= 100 for number in numbers(banks[0], batch)]
        assert found == [False, False, False, True, True]


class Watched(Toy):
    """Writes down what it is asked to do, and whether in the precision of the fit."""

    def __init__(self, *, teacher: FrozenTeacher, spec: ImageSpec) -> None:
        super().__init__(teacher=teacher, spec=spec)
        self.events: list[str] = []

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        assert student is not None
        assert not any(p.requires_grad for p in student.parameters())
        assert torch.is_autocast_enabled("cpu")
        self.events.append("round")
        return {}

    def sample(self, n: int) -> Tensor:
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")
        self.events.append("batch")
        return super().sample(n)


@pytest.fixture
def watched(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> Watched:
    return Watched(teacher=tiny_teacher, spec=tiny_spec)


def fit(
    method: Watched, folder: Path, rounds: OnlineRounds, *, steps: int = 5, epochs: int = 1
) -> None:
    """A student under autocast, with the method in the loop."""
    module = student(method.spec, method.teacher)
    step = module.training_step

    def counted(batch: Any, batch_idx: int) -> None:
        step(batch, batch_idx)
        method.events.append("step")

    module.training_step = counted  # type: ignore[method-assign]
    job(folder, precision="bf16-mixed").fit(
        "stage_b",
        module,
        epochs=epochs,
        state=folder / "state",
        batches=OnlineBatches(method, batch_size=4, steps=steps),
        test=labelled(method.spec, 4),
        callbacks=[rounds],
    )


@pytest.mark.parametrize("steps_per_round", [1, 2, 5])
def test_a_round_comes_before_its_batches_and_these_before_their_step(
    watched: Watched, tmp_path: Path, steps_per_round: int
) -> None:
    fit(watched, tmp_path, OnlineRounds(watched, steps_per_round=steps_per_round))
    expected = []
    for step in range(5):
        expected += ["round"] * (step % steps_per_round == 0) + ["batch", "step"]
    assert watched.events == expected


def test_rounds_are_counted_over_epochs_and_interruptions(
    watched: Watched, tmp_path: Path
) -> None:
    counted: list[int] = []
    rounds = OnlineRounds(watched, steps_per_round=2, after_round=counted.append)
    fit(watched, tmp_path, rounds, epochs=2)
    assert counted == [1, 2, 3, 4, 5, 6]
    again = OnlineRounds(watched, steps_per_round=2, after_round=counted.append)
    fit(watched, tmp_path, again, epochs=3)  # of which two are done
    assert counted[6:] == [7, 8, 9]


def test_a_broken_method_is_named_before_the_last_step_of_an_epoch(
    watched: Watched, tmp_path: Path
) -> None:
    watched.generator.weight.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match="Linear of Watched"):
        fit(watched, tmp_path, OnlineRounds(watched, steps_per_round=2))
    assert watched.events.count("step") == 4
    assert not list((tmp_path / "state").glob("*"))


def test_batches_are_drawn_by_nobody_who_only_passes_them_on(watched: Watched) -> None:
    batches = OnlineBatches(watched, batch_size=4, steps=3)
    assert len(list(batches)) == len(batches) == 3
    assert watched.events == []


def test_an_inclusion_of_one_changes_no_batch(tiny_spec: ImageSpec) -> None:
    bank = numbered(tiny_spec, 30, augmentation=Augmentation(1, 0.5))
    plain = ReplayBatches([bank], 4, 20, 0)
    included = ReplayBatches([bank], 4, 20, 0, inclusion=[torch.ones(30)])
    assert all(map(torch.equal, plain, included))


def test_images_come_as_often_as_they_are_included(tiny_spec: ImageSpec) -> None:
    bank = numbered(tiny_spec, 40)
    inclusion = torch.linspace(0.1, 1, 40)
    batches = ReplayBatches([bank], 4, 2000, 0, inclusion=[inclusion])
    seen = torch.bincount(
        torch.tensor([number for batch in batches for number in numbers(bank, batch)])
    )
    expected = 8000 * inclusion / inclusion.sum()
    assert ((seen - expected).abs() < 0.25 * expected).all()
    rare = seen[:4].sum() / seen.sum()
    assert rare == pytest.approx(float(inclusion[:4].sum() / inclusion.sum()), rel=0.1)


def test_banks_are_included_apart(tiny_spec: ImageSpec) -> None:
    banks = [numbered(tiny_spec, 10), numbered(tiny_spec, 10, first=100)]
    never = torch.full((10,), 1e-9)
    never[3] = 1
    batches = ReplayBatches(banks, 4, 5, 0, inclusion=[never, torch.ones(10)])
    seen = [numbers(banks[0], batch) for batch in batches]
    assert all(batch[:2] == [3, 3] for batch in seen)
    assert {number for batch in seen for number in batch[2:]} == set(range(100, 110))


def test_what_the_teacher_says_comes_with_its_image(tiny_spec: ImageSpec) -> None:
    banks = [numbered(tiny_spec, 30), numbered(tiny_spec, 20, first=100)]
    logits = [torch.arange(30.0)[:, None], torch.arange(100.0, 120)[:, None]]
    batches = ReplayBatches(banks, 4, 25, 0, logits=logits)
    plain = ReplayBatches(banks, 4, 25, 0)
    for _ in range(2):
        for pair, images in zip(batches, plain, strict=True):
            assert torch.equal(pair[0], images)
            assert pair[1].flatten().tolist() == numbers(banks[0], pair[0])


def test_an_augmented_image_is_another_to_the_teacher(tiny_spec: ImageSpec) -> None:
    banks = [numbered(tiny_spec, 9), numbered(tiny_spec, 9, augmentation=Augmentation(1))]
    batches = ReplayBatches(banks, 4, 2, 0, logits=[torch.zeros(9, 1)] * 2)
    assert all(isinstance(batch, Tensor) for batch in batches)


def test_held_out_rows_are_of_seed_rank_and_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = held_out_rows([40, 40], 0.25, seed=0)
    assert [len(first), len(second)] == [10, 10]
    assert first.tolist() == sorted(set(first.tolist()))
    again = held_out_rows([40, 7], 0.25, seed=0)
    assert torch.equal(first, again[0])
    assert len(again[1]) == 2
    others = [second, held_out_rows([40], 0.25, seed=1)[0]]
    monkeypatch.setattr("src.substitution.batches.rank", lambda: 1)
    others.append(held_out_rows([40], 0.25, seed=0)[0])
    assert all(not torch.equal(first, other) for other in others)


@pytest.mark.parametrize(("share", "count"), [(0.001, 1), (0.5, 2), (0.999, 3)])
def test_some_are_held_out_and_some_are_left(share: float, count: int) -> None:
    (rows,) = held_out_rows([4], share, seed=0)
    assert len(rows) == count


def test_a_bank_of_one_image_cannot_be_parted() -> None:
    with pytest.raises(UserError, match=r"distill\.held_out=0\.1, but got \[4, 1\]; have more"):
        held_out_rows([4, 1], 0.1, seed=0)


def test_an_image_of_inclusion_zero_never_comes(tiny_spec: ImageSpec) -> None:
    bank = numbered(tiny_spec, 40)
    (rows,) = held_out_rows([40], 0.25, seed=0)
    inclusion = torch.ones(40).index_fill(0, rows, 0)
    batches = ReplayBatches([bank], 4, 50, 0, inclusion=[inclusion])
    for _ in range(5):
        seen = [number for batch in batches for number in numbers(bank, batch)]
        assert set(seen) == set(range(40)) - set(rows.tolist())
        assert sorted(seen[:30]) == sorted(set(seen))  # each once, before one comes again


def test_ranks_are_ordered_apart(tiny_spec: ImageSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    bank, orders = numbered(tiny_spec, 40), []
    for rank in range(2):
        monkeypatch.setattr("src.substitution.batches.rank", lambda rank=rank: rank)
        orders.append([numbers(bank, batch) for batch in ReplayBatches([bank], 4, 10, 0)])
    assert orders[0] != orders[1]


def test_what_is_left_out_depends_on_nothing_that_was_drawn_elsewhere(
    tiny_spec: ImageSpec,
) -> None:
    bank, before = numbered(tiny_spec, 40), torch.get_rng_state()
    inclusion = [torch.linspace(0.1, 1, 40)]
    straight, resumed = (ReplayBatches([bank], 4, 10, 0, inclusion=inclusion) for _ in range(2))
    _, last = (torch.cat(list(straight)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(3)
    resumed.epoch = 1
    assert torch.equal(torch.cat(list(resumed)), last)


def test_a_loss_term_of_a_round_that_is_not_finite_is_named(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "refresh", lambda _: {"made": torch.tensor(float("nan"))})
    with pytest.raises(FloatingPointError, match="Loss term 'made' is not finite at round 0"):
        fit(watched, tmp_path, OnlineRounds(watched, steps_per_round=2))


def test_thinning_begins_elsewhere_in_every_bank_epoch_rank_and_run(
    tiny_spec: ImageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets: list[float] = []

    def noting(inclusion: Tensor, offset: float) -> Tensor:
        offsets.append(offset)
        return torch.arange(len(inclusion))

    def epochs(seed: int = 0) -> list[float]:
        """Offsets of two epochs of two banks, each of which is passed twice an epoch."""
        offsets.clear()
        banks = [numbered(tiny_spec, 10), numbered(tiny_spec, 10)]
        batches = ReplayBatches(banks, 4, 8, seed, inclusion=[torch.full((10,), 0.5)] * 2)
        assert [len(list(batches)) for _ in range(2)] == [8, 8]
        return list(offsets)

    monkeypatch.setattr("src.substitution.batches.thinned", noting)
    first = epochs()
    assert len(first) == 8
    assert epochs() == first
    others = epochs(seed=1)
    monkeypatch.setattr("src.substitution.batches.rank", lambda: 1)
    assert len({*first, *others, *epochs()}) == 24
