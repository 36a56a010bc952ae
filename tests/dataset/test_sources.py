"""No change of a data set goes unnoticed: files, folders and lists that its content rests on."""

import os
import time

import pytest

from src.common import memory
from src.common.memory import remember, stamp
from src.dataset.cifar import Cifar10
from src.dataset.digits import Digits
from src.dataset.folder_pool import FolderPool
from src.dataset.image_folder import ImageFolder
from src.dataset.imagenet import ImageNet
from src.dataset.photo_patches import PhotoPatches
from src.dataset.tiny_imagenet import TinyImageNet

DEVKIT = "ILSVRC2012_devkit_t12"
SYNSETS = tuple(f"n{number:08d}" for number in range(3))


def image_folder(root, cache, grow):
    for split in ("train", "val"):
        grow(root / split, ("cat", "dog"), each=1)
    (root / "train" / "cat" / "empty").mkdir()
    return ImageFolder(root, cache, image_size=32)


def cifar(root, cache, grow):
    for split in ("train", "test"):
        grow(root / "cifar10" / split, Cifar10.names, each=1)
    (root / "cifar10" / "train" / "cat" / "empty").mkdir()
    return Cifar10(root, cache)


def cifar_beside(root, cache, grow):
    for split in ("train", "test"):
        grow(root / split, Cifar10.names, each=1)
    (root / "train" / "cat" / "empty").mkdir()
    return Cifar10(root, cache)


def pool(root, cache, grow):
    grow(root, ("cat", "dog"), each=1)
    (root / "cat" / "empty").mkdir()
    return FolderPool(root, cache)


def tiny_imagenet(root, cache, grow):
    grow(root / "train", SYNSETS, each=1, size=2)
    grow(root / "val", ("images",), each=2, size=2)
    lines = [f"{number}.png\t{SYNSETS[number]}\t0\t0\t1\t1" for number in range(2)]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines))
    (root / "words.txt").write_text(f"{SYNSETS[0]}\ttench")
    (root / "train" / SYNSETS[0] / "empty").mkdir()
    return TinyImageNet(root, cache)


def imagenet(root, cache, grow):
    for split in ("train", "val"):
        grow(root / split, SYNSETS, each=1, size=2)
    (root / "train" / SYNSETS[0] / "empty").mkdir()
    return ImageNet(root, cache)


KINDS = [image_folder, cifar, cifar_beside, pool, tiny_imagenet, imagenet]


@pytest.fixture(autouse=True)
def few_classes(monkeypatch):
    for dataset in (TinyImageNet, ImageNet):
        monkeypatch.setattr(dataset, "num_classes", len(SYNSETS))


def first(root, pattern):
    return sorted(root.rglob(pattern))[0]


def flip(path):
    """Another byte, with size and time of modification as before."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "edit": lambda root: first(root, "*.png").write_bytes(b"other"),
    "add": lambda root: (first(root, "*.png").parent / "new.png").write_bytes(b"new"),
    "remove": lambda root: first(root, "*.png").unlink(),
    "rename": lambda root: first(root, "*.png").rename(first(root, "*.png").with_name("z.png")),
    "fill": lambda root: (first(root, "empty") / "new.png").write_bytes(b"new"),
    "new folder": lambda root: (first(root, "*.png").parent / "deeper").mkdir(),
    "edit as large": lambda root: flip(first(root, "*.png")),
    "new in the root": lambda root: (root / "new").mkdir(),
}


def state(data):
    return [(str(path), stamp(path)) for path in data.sources()]


def stamps(before):
    return [(path, stamp(path)) for path, _ in before]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_shows(kind, change, tmp_path, grow):
    root = tmp_path / "root"
    data = kind(root, tmp_path / "cache", grow)
    before = state(data)
    assert stamps(before) == before
    assert shows(data, lambda: CHANGES[change](root))


def shows(data, change):
    before = state(data)
    time.sleep(0.02)  # a tick of the clock of files
    change()
    return stamps(before) != before


def altered(path):
    """Ways in which a file may change, the last of which leaves none."""
    return (lambda: path.write_bytes(b"other"), lambda: os.utime(path, (1, 1)), path.unlink)


@pytest.mark.parametrize("name", ["words.txt", "val/val_annotations.txt"])
def test_lists_count_too(name, tmp_path, grow):
    data = tiny_imagenet(tmp_path / "root", tmp_path / "cache", grow)
    before = state(data)
    for change in altered(tmp_path / "root" / name):
        time.sleep(0.02)
        change()
        assert stamps(before) != before
        before = stamps(before)


@pytest.mark.parametrize("name", ["val.txt", "val/val.txt", "LOC_val_solution.csv", DEVKIT])
def test_lists_that_are_not_there_yet_count_too(name, tmp_path, grow):
    data = imagenet(tmp_path / "root", tmp_path / "cache", grow)
    assert tmp_path / "root" / name in data.sources()
    assert tmp_path / "root" / DEVKIT / "data" / "meta.mat" in data.sources()


def test_every_file_of_an_archive_counts(tmp_path):
    archive = tmp_path / "cifar-10-batches-py"
    archive.mkdir()
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch", "batches.meta"]
    for name in names:
        (archive / name).write_bytes(b"pickles")
    data = Cifar10(tmp_path, tmp_path / "cache")
    assert shows(data, lambda: (tmp_path / "new").mkdir())
    assert shows(data, lambda: (archive / "new").mkdir())
    for name in names:
        for change in altered(archive / name):
            assert shows(data, change)


@pytest.mark.parametrize("split", ["train", "test", "val"])
def test_a_split_that_is_empty_so_far_counts(split, tmp_path, grow):
    for other in {"train", "test"} - {split}:
        grow(tmp_path / other, ("cat", "dog"), each=1)
    (tmp_path / split).mkdir()
    data = ImageFolder(tmp_path, tmp_path / "cache", image_size=8)
    assert shows(data, lambda: grow(tmp_path / split, ("cat", "dog"), each=1))


def test_a_folder_of_annotated_images_that_is_empty_so_far_counts(tmp_path, grow):
    data = tiny_imagenet(tmp_path, tmp_path / "cache", grow)
    for path in (tmp_path / "val" / "images").iterdir():
        path.unlink()
    assert shows(data, lambda: grow(tmp_path / "val", ("images",), each=1))


def test_a_folder_below_one_that_is_no_class_counts(tmp_path, grow):
    data = image_folder(tmp_path, tmp_path / "cache", grow)
    inner = tmp_path / "val" / "other" / "inner"
    inner.mkdir(parents=True)
    assert shows(data, lambda: (inner / "new.png").write_bytes(b"new"))


@pytest.mark.parametrize("place", ["", "cat", "cat/empty"])
def test_a_link_that_leads_nowhere_yet_counts(place, tmp_path, grow):
    data = pool(tmp_path / "pool", tmp_path / "cache", grow)
    (tmp_path / "pool" / place / "later").symlink_to(tmp_path / "later")
    assert shows(data, (tmp_path / "later").mkdir)


def test_a_class_that_leads_nowhere_yet_counts(tmp_path, grow):
    data = image_folder(tmp_path / "root", tmp_path / "cache", grow)
    (tmp_path / "root" / "train" / "later").symlink_to(tmp_path / "later")
    assert shows(data, (tmp_path / "later").mkdir)


def test_a_link_that_leads_elsewhere_counts(tmp_path, grow):
    for name in ("one", "two"):
        grow(tmp_path / name, ("cat",), each=1)
    (tmp_path / "current").symlink_to("one")
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "link").symlink_to(tmp_path / "current")

    def lead_elsewhere():
        (tmp_path / "current").unlink()
        (tmp_path / "current").symlink_to("two")

    assert shows(FolderPool(tmp_path / "pool", tmp_path / "cache"), lead_elsewhere)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_fingerprint_is_remembered_until_a_change(kind, tmp_path, grow, monkeypatch):
    data = kind(tmp_path / "root", tmp_path / "cache", grow)
    monkeypatch.setattr(memory, "_SETTLED_NS", -(10**9))  # as if all of it were older
    calls = []

    def remembered():
        path = tmp_path / "memory.json"
        return remember(path, data.sources, lambda: calls.append(1) or data.fingerprint())

    first_one = remembered()
    assert remembered() == first_one
    assert len(calls) == 1
    (tmp_path / "root" / "new").mkdir()
    remembered()
    assert len(calls) == 2


@pytest.mark.parametrize("data", [Digits(), PhotoPatches()])
def test_data_of_a_package_rest_on_no_file(data):
    assert data.sources() == ()
