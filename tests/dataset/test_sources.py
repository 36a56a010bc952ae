"""No change of a data set goes unnoticed: files, folders and lists that its content rests on."""

import os
import time

import pytest

from src.common.memory import stamp
from src.dataset.cifar import Cifar10
from src.dataset.digits import Digits
from src.dataset.folder_pool import FolderPool
from src.dataset.image_folder import ImageFolder
from src.dataset.photo_patches import PhotoPatches
from src.dataset.tiny_imagenet import TinyImageNet

SYNSETS = tuple(f"n{number:08d}" for number in range(200))


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


KINDS = [image_folder, cifar, pool, tiny_imagenet]


def first(root, pattern):
    return sorted(root.rglob(pattern))[0]


CHANGES = {
    "edit": lambda root: first(root, "*.png").write_bytes(b"other"),
    "add": lambda root: (first(root, "*.png").parent / "new.png").write_bytes(b"new"),
    "remove": lambda root: first(root, "*.png").unlink(),
    "rename": lambda root: first(root, "*.png").rename(first(root, "*.png").with_name("z.png")),
    "fill": lambda root: (first(root, "empty") / "new.png").write_bytes(b"new"),
    "new folder": lambda root: (first(root, "*.png").parent / "deeper").mkdir(),
    "new split": lambda root: (root / "test").mkdir(),
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
    time.sleep(0.02)  # a tick of the clock of files
    CHANGES[change](root)
    assert stamps(before) != before


@pytest.mark.parametrize("name", ["words.txt", "val/val_annotations.txt"])
def test_lists_count_too(name, tmp_path, grow):
    data = tiny_imagenet(tmp_path / "root", tmp_path / "cache", grow)
    before = state(data)
    path = tmp_path / "root" / name
    os.utime(path, (1, 1))
    assert stamps(before) != before
    path.unlink()
    assert stamps(before) != before


@pytest.mark.parametrize("data", [Digits(), PhotoPatches()])
def test_data_of_a_package_rest_on_no_file(data):
    assert data.sources() == ()
