import io

import pytest
import torch
from torch import Tensor

from src.substitution.feature_bank import FeatureBank


def numbered(start: int, count: int = 2) -> Tensor:
    return torch.arange(start, start + count).float().unsqueeze(1).expand(-1, 3)


def filled(appends: int, capacity: int = 8) -> FeatureBank:
    bank = FeatureBank(capacity, 3)
    for index in range(appends):
        bank.append(numbered(2 * index))
    return bank


def drawn(bank: FeatureBank, n: int, seed: int = 0) -> list[float]:
    return bank.draw(n, torch.Generator().manual_seed(seed))[:, 0].tolist()


@pytest.mark.parametrize(
    ("appends", "held"),
    [
        (0, []),
        (1, [0, 1]),
        (3, [0, 1, 2, 3, 4, 5]),
        (4, [0, 1, 2, 3, 4, 5, 6, 7]),
        (5, [2, 3, 4, 5, 6, 7, 8, 9]),
        (9, [10, 11, 12, 13, 14, 15, 16, 17]),
    ],
)
def test_it_holds_the_rows_written_last(appends: int, held: list[float]) -> None:
    bank = filled(appends)
    assert len(bank) == len(held)
    assert sorted(drawn(bank, 100)) == held


def test_a_ring_that_is_exactly_full_is_not_taken_for_an_empty_one() -> None:
    # The released code drew nothing in this one round, and its loss was NaN.
    assert len(drawn(filled(4), 5)) == 5


def test_rows_are_drawn_without_replacement_and_anew_every_time() -> None:
    bank = filled(4)
    draws = [drawn(bank, 5, seed) for seed in range(20)]
    assert all(len(set(rows)) == 5 for rows in draws)
    assert len({tuple(sorted(rows)) for rows in draws}) > 5
    assert drawn(bank, 5) == draws[0]


def test_every_row_is_equally_likely() -> None:
    bank, generator = filled(4), torch.Generator().manual_seed(0)
    rows = torch.cat([bank.draw(2, generator)[:, 0] for _ in range(2000)])
    counts = rows.long().bincount(minlength=8)
    assert (counts - 500).abs().max() < 5 * 20  # standard deviation below 20


def test_what_is_kept_is_a_copy_without_history() -> None:
    bank, rows = FeatureBank(4, 3), torch.ones(2, 3, requires_grad=True)
    bank.append(rows * 2)
    with torch.no_grad():
        rows.zero_()
    kept = bank.draw(2, torch.Generator())
    assert not kept.requires_grad
    assert (kept == 2).all()


@pytest.mark.parametrize("appends", [0, 3, 4, 7])
def test_saved_and_loaded_it_goes_on_alike(appends: int) -> None:
    bank, buffer = filled(appends), io.BytesIO()
    torch.save(bank.state_dict(), buffer)
    bank.append(numbered(100))  # must not reach into the saved state
    buffer.seek(0)
    loaded = FeatureBank(8, 3)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    assert drawn(loaded, 8) == drawn(filled(appends), 8)
    loaded.append(numbered(100))
    assert drawn(loaded, 8) == drawn(bank, 8)


def test_its_state_is_a_snapshot_and_as_large_as_what_is_in_use() -> None:
    bank = filled(1, capacity=4096)
    state = bank.state_dict()
    bank.append(numbered(100))
    buffer = io.BytesIO()
    torch.save(state, buffer)
    assert len(buffer.getvalue()) < 4096 * 3 * 4 / 2
    assert state["_extra_state"]["rows"][:, 0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("counts", "held"),
    [
        ((3, 3, 3), [1, 2, 3, 4, 5, 6, 7, 8]),
        ((5, 9), list(range(6, 14))),
        ((20,), [*range(12, 20)]),
        # What comes after more than there is room for takes the place of the oldest of it.
        ((20, 2), [*range(14, 22)]),
        ((5, 20, 3), [*range(20, 28)]),
        ((3, 9, 8, 1), [*range(13, 21)]),
    ],
)
def test_batches_need_not_fill_it_evenly(counts: tuple[int, ...], held: list[float]) -> None:
    bank, start = FeatureBank(8, 3), 0
    for count in counts:
        bank.append(numbered(start, count))
        start += count
    assert sorted(drawn(bank, 100)) == held
