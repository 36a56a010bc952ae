import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from src.common.errors import UserError
from src.common.sealed import read_sealed
from src.dataset import cache, decode, listing
from src.dataset.cache import content_of, load_decoded, remember
from src.dataset.decode import Geometry
from src.dataset.listing import ImageFiles, files_by_class

SIZE = Geometry(32)
CLASSES = ("a", "b")


@pytest.fixture
def source(tmp_path, grow):
    grow(tmp_path / "source", CLASSES)
    return tmp_path / "source"


@pytest.fixture
def decoding(monkeypatch):
    """Number of files of every decoding that really happened."""
    counts = []
    original = cache.decode_files

    def counted(paths, geometry):
        counts.append(len(paths))
        return original(paths, geometry)

    monkeypatch.setattr(cache, "decode_files", counted)
    return counts


def test_another_decoder_decodes_again(source, tmp_path, decoding, monkeypatch):
    load(source, tmp_path)
    load(source, tmp_path)
    assert len(decoding) == 1
    monkeypatch.setattr(cache, "source_hash", lambda roots: f"edited {roots}")
    load(source, tmp_path)
    assert len(decoding) == 2


def load(source, tmp_path, **options):
    geometry = options.pop("geometry", SIZE)
    files = files_by_class(source, CLASSES)
    return load_decoded(files, geometry, tmp_path / "cache", "toy", **options)


def entry(tmp_path):
    return next(path for path in (tmp_path / "cache" / "dataset").iterdir() if path.is_dir())


def test_images_are_decoded_once_and_equal_the_files(source, tmp_path, save, decoding):
    first, second = load(source, tmp_path), load(source, tmp_path)
    assert decoding == [4]
    expected = save(tmp_path / "again.png", seed=2)  # the first image of class b
    for decoded in (first, second):
        np.testing.assert_array_equal(decoded.images[2].permute(1, 2, 0), expected)
        assert decoded.images.shape == (4, 3, 32, 32)
        assert decoded.labels.tolist() == [0, 0, 1, 1]
        assert decoded.labels.dtype == torch.int64
        assert decoded.names == ("a/0.png", "a/1.png", "b/0.png", "b/1.png")


def test_a_changed_source_is_decoded_again(source, tmp_path, save, decoding):
    load(source, tmp_path)
    expected = save(source / "b" / "0.png", seed=99)
    os.utime(source / "b" / "0.png", ns=(0, 0))
    np.testing.assert_array_equal(load(source, tmp_path).images[2].permute(1, 2, 0), expected)
    assert decoding == [4, 4]


def test_another_geometry_is_another_entry(source, tmp_path, decoding):
    assert load(source, tmp_path, geometry=Geometry(16)).images.shape[-1] == 16
    assert load(source, tmp_path, geometry=Geometry(16, 20)).images.shape[-1] == 16
    assert decoding == [4, 4]


def test_a_large_set_is_mapped_and_a_small_one_loaded(source, tmp_path, monkeypatch):
    small = load(source, tmp_path)
    small.images[0] = 0  # in memory, so this must not reach the file
    monkeypatch.setattr(cache, "MAP_ABOVE_BYTES", 0)
    arrays = []
    original = torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda a: arrays.append(a) or original(a))
    mapped = load(source, tmp_path)
    assert isinstance(arrays[-1], np.memmap)
    assert arrays[-1].mode == "r"
    assert mapped.images[0].max() > 0
    assert torch.equal(mapped.images[1:], small.images[1:])


def test_corrupt_images_are_counted_and_the_first_is_named(source, tmp_path):
    for name in ("a/1.png", "b/0.png"):
        (source / name).write_bytes(b"no image")
    with pytest.raises(UserError, match=r"2 of 4 images .* first 'a/1.png' \(Unidentified"):
        load(source, tmp_path)
    kept = {path.suffix for path in (tmp_path / "cache" / "dataset").iterdir()}
    assert kept <= {".lock"}


def test_an_error_is_one_line_whatever_the_name(source, tmp_path):
    (source / "a" / "1\n.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 5 images .* first 'a/1\\n\.png'") as caught:
        load(source, tmp_path)
    assert "\n" not in str(caught.value)


def test_what_may_not_be_read_is_an_unreadable_image(source, tmp_path, monkeypatch, caplog):
    def opened(path, *rest):
        if str(path).endswith("a/1.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *rest)

    original = decode.decode_image
    monkeypatch.setattr(decode, "decode_image", opened)
    monkeypatch.setattr(listing, "sha256_file", lambda path: opened(path, SIZE).tobytes().hex())
    with pytest.raises(
        UserError, match=r"1 of 4 .*'a/1\.png' \(PermissionError.*skip_corrupt=true"
    ):
        load(source, tmp_path)
    assert len(load(source, tmp_path, skip_corrupt=True).labels) == 3
    assert "a/1.png" in caplog.text


def test_corrupt_images_are_left_out_on_request(source, tmp_path, caplog, decoding):
    whole = load(source, tmp_path).images
    (source / "a" / "1.png").write_bytes(b"no image")
    for _ in range(2):
        decoded = load(source, tmp_path, skip_corrupt=True)
        assert torch.equal(decoded.images, whole[[0, 2, 3]])
        assert decoded.labels.tolist() == [0, 1, 1]
        assert decoded.names == ("a/0.png", "b/0.png", "b/1.png")
    assert decoding == [4, 4]
    assert "1 of 4 images" in caplog.text
    with pytest.raises(UserError, match="1 of 4 images"):  # by a run that has not asked for it
        load(source, tmp_path)


def test_nothing_readable_is_an_error_even_then(source, tmp_path):
    for path in source.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="4 of 4 images"):
        load(source, tmp_path, skip_corrupt=True)


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "zeros": lambda content: bytes(len(content)),
    "missing": None,
}


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("threshold", [0, 2**30])
def test_a_damaged_entry_is_decoded_again(
    name, damage, threshold, source, tmp_path, monkeypatch, decoding, caplog
):
    monkeypatch.setattr(cache, "MAP_ABOVE_BYTES", threshold)
    expected = load(source, tmp_path)
    images = expected.images.clone()
    path = entry(tmp_path) / name
    content = path.read_bytes()
    path.unlink()
    if DAMAGES[damage] is not None:
        path.write_bytes(DAMAGES[damage](content))
    again = load(source, tmp_path)
    assert torch.equal(again.images, images)
    assert torch.equal(again.labels, expected.labels)
    assert decoding == [4, 4]
    assert "is damaged" in caplog.text
    assert name in caplog.text


def test_permuted_labels_are_damage(source, tmp_path, decoding):
    load(source, tmp_path)
    np.save(entry(tmp_path) / "labels.npy", np.array([1, 1, 0, 0]))
    assert load(source, tmp_path).labels.tolist() == [0, 0, 1, 1]
    assert decoding == [4, 4]


def test_an_equal_copy_is_not_decoded_again(source, tmp_path, decoding):
    first = load(source, tmp_path)
    shutil.copytree(source, tmp_path / "copy")
    assert torch.equal(load(tmp_path / "copy", tmp_path).images, first.images)
    (source / "a" / "0.png").touch()
    load(source, tmp_path)
    assert decoding == [4]


def test_images_that_change_while_they_are_decoded_are_refused(source, tmp_path, monkeypatch):
    original = cache.decode_files

    def meanwhile(paths, geometry):
        yield from original(paths, geometry)
        (source / "a" / "0.png").write_bytes((source / "b" / "0.png").read_bytes())

    monkeypatch.setattr(cache, "decode_files", meanwhile)
    with pytest.raises(UserError, match=r"some have changed; run again"):
        load(source, tmp_path)
    monkeypatch.undo()
    decoded = load(source, tmp_path)
    assert torch.equal(decoded.images[0], decoded.images[2])


def test_contents_are_hashed_once(source, tmp_path, monkeypatch):
    hashed = []
    original = ImageFiles.fingerprint
    monkeypatch.setattr(ImageFiles, "is_settled", lambda self: True)
    monkeypatch.setattr(ImageFiles, "fingerprint", lambda s: hashed.append(s) or original(s))
    for _ in range(2):
        content = content_of(files_by_class(source, CLASSES), tmp_path, "toy")
    assert len(hashed) == 1
    (memory,) = tmp_path.rglob("toy-fingerprint-*.json")
    memory.write_text(memory.read_text().replace(content[:4], "0000"))
    assert content_of(files_by_class(source, CLASSES), tmp_path, "toy") == content
    assert len(hashed) == 2


def test_what_has_just_been_written_is_hashed_again(source, tmp_path):
    content_of(files_by_class(source, CLASSES), tmp_path, "toy")
    assert not list(tmp_path.rglob("toy-fingerprint-*.json"))


def refusing(forbidden, opened):
    """``Image.open`` as whoever may not read one file has it."""

    def open_(path, *args, **kwargs):
        if Path(path) == forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    return open_


@pytest.mark.parametrize("kind", ["pipe", "device", "broken", "itself", "folder", "forbidden"])
@pytest.mark.usefixtures("bounded")
def test_what_is_no_regular_file_is_an_unreadable_image(
    source, tmp_path, kind, caplog, monkeypatch
):
    path = source / "a" / "9.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "forbidden":
        path.write_bytes((source / "a" / "0.png").read_bytes())
        path.chmod(0)
        if os.access(path, os.R_OK):  # root may read everything
            monkeypatch.setattr(Image, "open", refusing(path, Image.open))
    elif kind == "folder":
        path.mkdir()
    else:
        targets = {"device": "/dev/zero", "broken": "nowhere", "itself": "9.png"}
        path.symlink_to(targets[kind])
    with pytest.raises(UserError, match=r"1 of 5 images .*'a/9\.png'.*skip_corrupt=true"):
        load(source, tmp_path)
    assert len(load(source, tmp_path, skip_corrupt=True).labels) == 4
    assert "a/9.png" in caplog.text


def test_pickles_in_the_cache_are_not_loaded(source, tmp_path, decoding):
    load(source, tmp_path)
    hostile = np.array([{"an": "object"}], dtype=object)
    np.save(entry(tmp_path) / "labels.npy", hostile, allow_pickle=True)
    assert load(source, tmp_path).labels.tolist() == [0, 0, 1, 1]
    assert decoding == [4, 4]


def test_leftovers_of_a_killed_process_are_removed(source, tmp_path):
    load(source, tmp_path)
    folder = entry(tmp_path)
    leftover = folder.with_name(f".1-00000000-{folder.name}")
    folder.rename(leftover)
    load(source, tmp_path)
    assert folder.is_dir()
    assert not leftover.exists()


def test_two_at_once_decode_once(source, tmp_path, decoding):
    with ThreadPoolExecutor(2) as threads:
        tasks = [threads.submit(load, source, tmp_path) for _ in range(2)]
        first, second = (task.result().images for task in tasks)
    assert torch.equal(first, second)
    assert decoding == [4]


def test_a_cache_that_cannot_be_written_says_so(source, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    with pytest.raises(UserError, match=r"Cannot write '.*cache.*' \(.*paths.cache"):
        load(source, tmp_path)


def test_a_full_disk_says_so_and_leaves_nothing(source, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write_images", full)
    with pytest.raises(UserError, match=r"No space left on device\); free space"):
        load(source, tmp_path)
    assert {path.suffix for path in (tmp_path / "cache" / "dataset").iterdir()} <= {".lock"}


def test_a_complete_cache_is_only_read(source, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFiles, "is_settled", lambda self: True)
    load(source, tmp_path)
    remember(tmp_path / "cache", "key", lambda: 1)
    monkeypatch.setattr(cache, "lock", lambda path: pytest.fail("takes a lock"))
    assert len(load(source, tmp_path).labels) == 4
    assert remember(tmp_path / "cache", "key", lambda: 2) == 1


def test_the_entry_says_where_it_came_from(source, tmp_path):
    load(source, tmp_path)
    card = read_sealed(entry(tmp_path) / "meta.json")
    assert card.pop("checksums").keys() == {"images.npy", "labels.npy"}
    of = entry(tmp_path).name
    assert card == {"of": of, "source": str(source), "num_images": 4, "skipped": {}}


def test_a_result_is_remembered(tmp_path):
    calls = []
    for _ in range(2):
        assert remember(tmp_path, "key", lambda: calls.append(1) or [1.5, "x"]) == [1.5, "x"]
    assert calls == [1]
