import hashlib
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from src.common.augment import Augmentation
from src.common.errors import UserError
from src.dataset.cifar import Cifar10, Cifar100

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
COUNTS = {"train": 20, "test": 10}


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def batch(seed, count, key):
    rows = np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)
    return {"data": rows, key: [i % 10 for i in range(count)]}


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Writes a small data set in the original layout and returns its root."""

    def write(reader=CIFAR10, key="labels"):
        folder = tmp_path / reader.base_folder
        folder.mkdir()
        contents = {"one": batch(1, 6, key), "two": batch(2, 6, key), "test": batch(3, 4, key)}
        contents["meta"] = {"label_names": list(CLASSES), "fine_label_names": list(CLASSES)}
        sums = {}
        for name, content in contents.items():
            (folder / name).write_bytes(pickle.dumps(content))
            sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
        monkeypatch.setattr(reader, "train_list", [[n, sums[n]] for n in ("one", "two")])
        monkeypatch.setattr(reader, "test_list", [["test", sums["test"]]])
        meta = {"filename": "meta", "key": reader.meta["key"], "md5": sums["meta"]}
        monkeypatch.setattr(reader, "meta", meta)
        return tmp_path

    return write


@pytest.fixture
def folders(tmp_path, grow):
    grow(tmp_path / "data" / "train", CLASSES, each=2)
    grow(tmp_path / "data" / "test", CLASSES, each=1, first_seed=100)
    return tmp_path / "data"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(Cifar10, "official_counts", COUNTS)


@pytest.mark.parametrize(
    ("dataset", "reader", "key"),
    [(Cifar10, CIFAR10, "labels"), (Cifar100, CIFAR100, "fine_labels")],
)
def test_the_original_batches_are_read(dataset, reader, key, archive, tmp_path):
    data = dataset(archive(reader, key), tmp_path / "cache")
    train, test = data.train(), data.test()
    assert train.images.shape == (12, 3, 32, 32)
    assert train.images.dtype == torch.uint8
    assert train.labels.tolist() == [*range(6)] * 2
    second = batch(2, 6, key)["data"][0].reshape(3, 32, 32)
    np.testing.assert_array_equal(train.images[6], second)
    assert test.images.shape == (4, 3, 32, 32)
    assert data.unlabeled(16).shape == (12, 3, 16, 16)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("place", ["itself", "within", "above"])
def test_the_original_is_found_from_within_and_from_above(place, archive, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "download", lambda self: pytest.fail("downloads"))
    whole = Cifar10(archive(), tmp_path / "cache").fingerprint()
    folder = root = tmp_path / "cifar-10-batches-py"
    if place == "above":
        (tmp_path / "cifar10").mkdir()
        root, folder = tmp_path, folder.rename(tmp_path / "cifar10" / folder.name)
    if place == "within":
        monkeypatch.chdir(folder)
        root = Path()
    data = Cifar10(root, tmp_path / "cache", download=True)
    assert len(data.train().labels) == 12
    assert data.fingerprint() == whole
    assert folder / "one" in data.sources()


@pytest.mark.parametrize("name", ["one", "test", "meta"])
def test_an_altered_batch_is_refused_before_it_is_unpickled(name, archive, tmp_path):
    root = archive()
    path = root / "cifar-10-batches-py" / name
    path.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    for action in ("train", "test", "fingerprint"):
        with pytest.raises(UserError, match=rf"original file '.*/{name}' \(MD5 .*altered"):
            getattr(Cifar10(root, tmp_path / "cache"), action)()
    assert not (tmp_path / "executed").exists()


def test_class_folders_are_read(folders, small, tmp_path, caplog):
    data = Cifar10(folders, tmp_path / "cache")
    assert data.train().labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert data.test().images.shape == (10, 3, 32, 32)
    assert data.unlabeled(32).shape == (20, 3, 32, 32)
    assert data.unlabeled(8).shape == (20, 3, 8, 8)
    assert "published" not in caplog.text


def test_the_class_folders_may_lie_one_level_deeper(folders, small, tmp_path):
    folders.rename(tmp_path / "cifar10")
    assert len(Cifar10(tmp_path, tmp_path / "cache").test().labels) == 10


def test_the_original_wins_over_class_folders(archive, small, grow, tmp_path):
    grow(archive() / "train", CLASSES)
    assert len(Cifar10(tmp_path, tmp_path / "cache").train().labels) == 12


def test_another_count_than_the_official_is_a_warning(folders, tmp_path, caplog):
    Cifar10(folders, tmp_path / "cache").test()
    assert "test split of cifar10" in caplog.text
    assert "holds 10 images instead of 10000" in caplog.text


def test_an_empty_class_folder_is_named(folders, small, tmp_path):
    for path in (folders / "test" / "frog").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"class folder '.*test/frog', but it holds nothing"):
        Cifar10(folders, tmp_path / "cache").test()


@pytest.mark.parametrize("action", ["train", "test", "fingerprint"])
def test_the_wrong_folder_is_told_with_what_was_expected(action, tmp_path):
    (tmp_path / "holiday").mkdir()
    data = Cifar10(tmp_path, tmp_path / "cache")
    with pytest.raises(UserError, match=r"cifar-10-batches-py/.*train,test.*it holds holiday"):
        getattr(data, action)()


@pytest.mark.parametrize("action", ["train", "test", "fingerprint"])
def test_images_without_class_folders_are_told_from_classes(action, tmp_path, save):
    for split in ("train", "test"):
        save(tmp_path / split / "1.png", seed=1)  # as Kaggle has them
    with pytest.raises(UserError, match=r"'train' holds images \(1\.png\) but no class folders"):
        getattr(Cifar10(tmp_path, tmp_path / "cache"), action)()


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        (Cifar10, "cifar-10-batches-bin"),
        (Cifar10, "cifar-10-batches-mat"),
        (Cifar100, "cifar-100-binary"),
        (Cifar100, "cifar-100-matlab"),
    ],
)
def test_another_version_of_the_original_is_named(dataset, name, tmp_path):
    (tmp_path / name).mkdir()
    for root in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match=rf"'{name}' is .*download the python version"):
            dataset(root, tmp_path / "cache").train()


def test_a_missing_train_split_does_not_hinder_evaluation(folders, small, tmp_path, monkeypatch):
    (folders / "train").rename(tmp_path / "elsewhere")
    data = Cifar10(folders, tmp_path / "cache")
    assert len(data.test().labels) == 10
    assert len(data.fingerprint()) == 64
    with pytest.raises(UserError, match="a train split"):
        data.train()


def test_the_fingerprint_follows_content_not_place(folders, small, tmp_path, save):
    first = Cifar10(folders, tmp_path / "cache").fingerprint()
    moved = folders.rename(tmp_path / "moved")
    assert Cifar10(moved, tmp_path / "other_cache").fingerprint() == first
    save(moved / "test" / "cat" / "0.png", seed=999)
    assert Cifar10(moved, tmp_path / "cache").fingerprint() != first


def test_the_fingerprint_of_the_original_covers_both_splits(archive, tmp_path, monkeypatch):
    root = archive()
    first = Cifar10(root, tmp_path / "cache").fingerprint()
    path = root / "cifar-10-batches-py" / "test"
    path.write_bytes(pickle.dumps(batch(9, 4, "labels")))
    changed = [["test", hashlib.md5(path.read_bytes()).hexdigest()]]
    monkeypatch.setattr(CIFAR10, "test_list", changed)
    assert Cifar10(root, tmp_path / "cache").fingerprint() != first


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def no_network(self):
        raise URLError("no network")

    monkeypatch.setattr(CIFAR10, "download", no_network)
    data = Cifar10(tmp_path / "data", tmp_path / "cache", download=True)
    with pytest.raises(UserError, match=r"Cannot download https://.*unpack it"):
        data.train()


def test_a_download_is_read(archive, tmp_path, monkeypatch):
    hidden = archive() / "cifar-10-batches-py"
    hidden.rename(tmp_path / "remote")
    monkeypatch.setattr(CIFAR10, "download", lambda self: (tmp_path / "remote").rename(hidden))
    assert len(Cifar10(tmp_path, tmp_path / "cache", download=True).train().labels) == 12


def test_what_is_unpacked_is_read_where_nothing_can_be_written(archive, tmp_path, monkeypatch):
    root = archive()

    def refuse(_path, **_):
        raise UserError("Cannot write: read-only file system")

    monkeypatch.setattr("src.dataset.cifar.lock", refuse)
    monkeypatch.setattr(CIFAR10, "download", lambda self: pytest.fail("downloads"))
    assert len(Cifar10(root, tmp_path / "cache", download=True).train().labels) == 12


def test_nothing_is_downloaded_beside_class_folders(folders, small, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "download", lambda self: pytest.fail("downloads"))
    assert len(Cifar10(folders, tmp_path / "cache", download=True).test().labels) == 10


def test_the_spec_needs_no_file(tmp_path):
    spec = Cifar100(tmp_path / "nowhere", tmp_path / "cache").spec
    assert (spec.num_classes, spec.image_size, spec.augmentation) == (
        100,
        32,
        Augmentation(4, 0.5),
    )
    assert spec.mean == (0.5071, 0.4867, 0.4408)
    assert spec.std == (0.2675, 0.2565, 0.2761)
    ten = Cifar10(tmp_path / "nowhere", tmp_path / "cache")
    assert ten.statistics == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert ten.class_names == CLASSES


def test_the_hundred_names_are_sorted_as_the_archives_labels():
    names = Cifar100("", "").class_names
    assert len(set(names)) == 100
    assert list(names) == sorted(names)
    assert (names[0], names[53], names[99]) == ("apple", "orange", "worm")


@pytest.mark.data
@pytest.mark.skipif(not Path("data/cifar10").is_dir(), reason="needs data/cifar10")
def test_the_real_test_split_is_balanced(tmp_path):
    labels = Cifar10("data/cifar10", tmp_path).test().labels
    assert labels.bincount().tolist() == [1000] * 10
