import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from src.substitution.image_bank import ImageBank, banks_of, files_of, stores_of
from src.substitution.row_store import RowStore

SHAPE = (2, 3)
ROW_BYTES = 2 * 3 * 4


def make(mapped_above: int = 10**9, dtype: torch.dtype = torch.float32) -> RowStore:
    return RowStore(SHAPE, dtype, mapped_above=mapped_above)


def rows(count: int) -> Tensor:
    return torch.randn(count, *SHAPE)


@pytest.mark.parametrize("mapped_above", [10**9, 2000 * ROW_BYTES, 0])
def test_every_bit_of_a_row_is_kept_wherever_it_lies(mapped_above: int) -> None:
    store, parts = make(mapped_above), [rows(count) for count in (1, 700, 0, 2000)]
    for part in parts:
        store.append(part)
    assert torch.equal(store.rows, torch.cat(parts))
    index = torch.tensor([2700, 0, 0])
    assert torch.equal(store.take(index), torch.cat(parts)[index])


def test_half_precision_is_rounded_and_watched() -> None:
    store, some = make(dtype=torch.float16), rows(5)
    store.append(some)
    assert torch.equal(store.rows, some.half())
    store.require_finite("Toy")
    store.append(rows(1) * 0 + 7e4)
    with pytest.raises(
        FloatingPointError,
        match=r"Stored maps of Toy .* half precision \(65504\).*baseline\.half_maps=false",
    ):
        store.require_finite("Toy")


@pytest.mark.parametrize("mapped_above", [10**9, 0])
def test_a_file_grows_and_gives_all_back(tmp_path: Path, mapped_above: int) -> None:
    store, again = make(mapped_above), make(mapped_above)
    store.append(rows(5))
    store.sync(tmp_path / "rows")
    store.append(rows(4))
    digest = store.sync(tmp_path / "rows")
    committed = store.rows.clone()
    store.append(rows(3))
    store.sync(tmp_path / "rows")  # of a later state, which never came about
    again.load_state_dict({"_extra_state": {"length": 9}})
    again.restore(tmp_path / "rows")
    assert torch.equal(again.rows, committed)
    assert again.sync(tmp_path / "rows") == digest == (digest[0], 9 * ROW_BYTES)
    again.append(rows(1))
    assert len(again) == 10


@pytest.mark.parametrize("mapped_above", [10**9, 0])
def test_what_is_saved_is_read_and_grows_on(tmp_path: Path, mapped_above: int) -> None:
    store, again, some = make(), make(mapped_above), rows(5)
    store.append(some)
    store.save(tmp_path / "rows.npy")
    again.read(tmp_path / "rows.npy")
    again.append(some[:2])
    assert torch.equal(again.rows, torch.cat([some, some[:2]]))
    kept = make()
    kept.read(tmp_path / "rows.npy")
    assert torch.equal(kept.rows, some)


def test_the_disk_has_all_rows_before_their_digest_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card that will hold it is flushed, too, and then trusted."""
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_size))
    store = make()
    for count in (5, 4):
        store.append(rows(count))
        store.sync(tmp_path / "rows")
    assert flushed == [5 * ROW_BYTES, 9 * ROW_BYTES]


def test_an_empty_store_survives_too(tmp_path: Path) -> None:
    store, again = make(), make()
    store.sync(tmp_path / "rows")
    again.restore(tmp_path / "rows")
    assert len(again) == 0


def test_stores_are_found_apart_from_banks() -> None:
    bank, first, second = ImageBank((3, 4, 4), mean=(0.5,) * 3, std=(0.5,) * 3), make(), make()
    module = nn.ModuleList([first, bank, second])
    assert banks_of(module) == {"bank0": bank}
    assert stores_of(module) == {"store0": first, "store1": second}
    assert files_of(module) == {"bank0": bank, "store0": first, "store1": second}


@pytest.mark.parametrize("mapped_above", [10**9, 0])
def test_a_store_that_was_cleared_begins_anew(mapped_above: int) -> None:
    store, more = make(mapped_above), rows(3)
    store.append(rows(5))
    store.clear()
    assert (len(store), store.rows.numel()) == (0, 0)
    store.append(more)
    assert torch.equal(store.rows, more)


def test_rows_of_a_growing_store_are_moved_a_few_times_only() -> None:
    store, places = make(), []
    for part in (parts := rows(5000)).split(5):
        store.append(part)
        places.append(store.rows.data_ptr())
    assert len(set(places)) <= 4  # room for 1024, and twice as many each time
    assert torch.equal(store.rows, parts)


@pytest.mark.parametrize(("spare", "is_mapped"), [(0, False), (-1, True)])
def test_a_store_is_a_file_where_it_is_larger_than_said(spare: int, is_mapped: bool) -> None:
    store = make(2000 * ROW_BYTES + spare)
    store.append(rows(2000))
    assert store._is_mapped == is_mapped
    store.to("meta")  # a file stays where it is
    assert store.rows.device.type == ("cpu" if is_mapped else "meta")


def test_a_store_that_was_read_back_grows_on_as_any_other(tmp_path: Path) -> None:
    store, again, some, more = make(), make(1023 * ROW_BYTES), rows(5), rows(2)
    store.append(some)
    store.sync(tmp_path / "rows")
    again.load_state_dict(store.state_dict())
    again.restore(tmp_path / "rows")
    assert not again._is_mapped
    again.append(more)  # into room for 1024
    assert again._is_mapped
    assert torch.equal(again.rows, torch.cat([some, more]))


@pytest.mark.parametrize("count", [3, 5, 9])
def test_what_was_adopted_after_a_sync_is_written_anew(tmp_path: Path, count: int) -> None:
    store, other = make(), make()
    store.append(rows(5))
    store.sync(tmp_path / "rows")
    other.append(rows(count))
    store.adopt(other)
    assert store.sync(tmp_path / "rows") == other.sync(tmp_path / "other")
    assert (tmp_path / "rows").read_bytes() == other.rows.numpy().tobytes()
    store.append(rows(2))
    other.append(store.rows[-2:])
    assert store.sync(tmp_path / "rows") == other.sync(tmp_path / "other")
    assert (tmp_path / "rows").read_bytes() == store.rows.numpy().tobytes()


def test_what_follows_a_clearing_is_written_anew(tmp_path: Path) -> None:
    store, other, more = make(), make(), rows(9)
    store.append(rows(5))
    store.sync(tmp_path / "rows")
    store.clear()
    for each in (store, other):
        each.append(more)
    assert store.sync(tmp_path / "rows") == other.sync(tmp_path / "other")
    assert (tmp_path / "rows").read_bytes() == more.numpy().tobytes()


def test_another_file_has_the_digest_of_all_rows(tmp_path: Path) -> None:
    store = make()
    store.append(rows(3))
    first = store.sync(tmp_path / "stage_a")
    assert store.sync(tmp_path / "stage_b") == first


def test_rows_that_were_adopted_out_of_a_file_stay_there() -> None:
    store, other = make(), make(0)
    other.append(rows(3))
    store.adopt(other)
    assert store.to("meta").rows.device.type == "cpu"
    store.clear()
    assert store.to("meta").rows.device.type == "meta"


def test_of_a_store_that_was_read_back_only_what_is_new_is_written(tmp_path: Path) -> None:
    store, again, path = make(), make(), tmp_path / "rows"
    store.append(rows(3))
    store.sync(path)
    again.load_state_dict(store.state_dict())
    again.restore(path)
    path.write_bytes(b"\0" * 3 * ROW_BYTES)
    again.append(rows(2))
    again.sync(path)
    written = path.read_bytes()
    assert written[: 3 * ROW_BYTES] == b"\0" * 3 * ROW_BYTES
    assert written[3 * ROW_BYTES :] == again.rows[3:].numpy().tobytes()


def test_stores_of_the_same_rows_grow_apart() -> None:
    store, other, some, more = make(), make(), rows(3), rows(4)
    other.append(some)
    store.adopt(other)
    store.append(more[:2])
    other.append(more[2:])
    assert torch.equal(store.rows, torch.cat([some, more[:2]]))
    assert torch.equal(other.rows, torch.cat([some, more[2:]]))
