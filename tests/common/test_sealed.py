import json
import os
from pathlib import Path

import pytest

from src.common.sealed import (
    DamagedError,
    digest_file,
    digests,
    read_sealed,
    verify,
    write_sealed,
)

VALUE = {"acc1": 91.94, "names": ["a", "b"], "nothing": None, "count": 3}


@pytest.fixture
def card(tmp_path: Path) -> Path:
    write_sealed(tmp_path / "card.json", VALUE)
    return tmp_path / "card.json"


def test_what_is_read_is_what_was_written(card: Path) -> None:
    assert read_sealed(card) == VALUE
    assert card.read_text().startswith("{\n")


def read_or_none(path: Path) -> dict[str, object] | None:
    try:
        return read_sealed(path)
    except DamagedError:
        return None


def test_no_altered_bit_is_overlooked(card: Path) -> None:
    """Unless it leaves the content as it is: a blank for another."""
    whole = card.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            altered = bytearray(whole)
            altered[position] ^= 1 << bit
            card.write_bytes(altered)
            assert read_or_none(card) in (VALUE, None)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"acc1": 91.94}', b"[" * 99999]
)
def test_what_is_no_card_is_damaged(card: Path, content: bytes) -> None:
    card.write_bytes(content)
    with pytest.raises(DamagedError, match=r"card\.json"):
        read_sealed(card)


def test_a_card_may_be_laid_out_anew(card: Path) -> None:
    card.write_text(json.dumps(json.loads(card.read_text()), sort_keys=True))
    assert read_sealed(card) == VALUE


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_result_is_not_finite(tmp_path: Path, number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_sealed(tmp_path / "card.json", {"acc1": number})
    assert list(tmp_path.iterdir()) == []


def test_what_never_ends_is_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "card.json")
    with pytest.raises(DamagedError, match="is missing"):
        read_sealed(tmp_path / "card.json")
    with pytest.raises(DamagedError, match="is missing"):
        verify(tmp_path, {"card.json": ""})


def test_a_file_that_has_changed_is_named(tmp_path: Path) -> None:
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(name.encode() * 100)
    expected = digests(tmp_path, ["a.bin", "b.bin"])
    verify(tmp_path, expected)
    content = bytearray((tmp_path / "b.bin").read_bytes())
    content[77] ^= 1
    (tmp_path / "b.bin").write_bytes(content)
    with pytest.raises(DamagedError, match=r"b\.bin' has been altered"):
        verify(tmp_path, expected)
    (tmp_path / "a.bin").unlink()
    with pytest.raises(DamagedError, match=r"a\.bin' is missing"):
        verify(tmp_path, expected)


def test_a_digest_may_be_of_the_first_bytes(tmp_path: Path) -> None:
    long, short = tmp_path / "long", tmp_path / "short"
    long.write_bytes(b"x" * 10_000_000)
    short.write_bytes(b"x" * 9_000_000)
    assert digest_file(long, 9_000_000) == digest_file(short)
    assert digest_file(long) != digest_file(short)
    assert digest_file(long, 0) == digest_file(short, 0)
