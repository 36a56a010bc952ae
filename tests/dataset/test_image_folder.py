import shutil

import pytest
import torch

from src.common.errors import UserError
from src.dataset import image_folder
from src.dataset.image_folder import ImageFolder
from src.dataset.imagenet import ImageNet

CLASSES = ("cat", "dog")


@pytest.fixture
def root(tmp_path, grow):
    grow(tmp_path / "mine" / "train", CLASSES, each=3)
    grow(tmp_path / "mine" / "test", CLASSES, each=1, first_seed=100)
    return tmp_path / "mine"


def folder(root, tmp_path, **options):
    return ImageFolder(root, tmp_path / "cache", **{"image_size": 32, **options})


def test_classes_are_the_sorted_folders(root, tmp_path):
    data = folder(root, tmp_path)
    assert data.class_names == CLASSES
    assert data.train().labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test().labels.tolist() == [0, 1]
    assert data.test() is data.test()


def test_statistics_are_measured_on_the_train_split(root, tmp_path):
    data = folder(root, tmp_path)
    pixels = data.train().images.double() / 255
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in data.statistics)
    torch.testing.assert_close(mean, pixels.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(std, pixels.std(dim=(0, 2, 3), correction=0))
    assert folder(root, tmp_path).spec == data.spec


def test_measured_statistics_are_kept_under_their_content(root, tmp_path, monkeypatch):
    measured = folder(root, tmp_path).statistics
    monkeypatch.setattr(image_folder, "measure", lambda images: pytest.fail("measures again"))
    shutil.copytree(root, tmp_path / "copy")
    (root / "train" / "cat" / "0.png").touch()
    for place in (root, tmp_path / "copy"):
        assert folder(place, tmp_path).statistics == measured
    monkeypatch.undo()
    (memory,) = tmp_path.rglob("image_folder-train-statistics-*.json")
    memory.write_text(memory.read_text().replace("0.", "0.9", 1))
    assert folder(root, tmp_path).statistics == measured


def test_statistics_follow_the_size(root, tmp_path):
    assert folder(root, tmp_path).spec.std > folder(root, tmp_path, image_size=4).spec.std


def test_given_statistics_need_no_train_split(root, tmp_path):
    shutil.rmtree(root / "train")
    data = folder(root, tmp_path, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    assert data.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert data.spec.num_classes == 2
    assert len(data.test().labels) == 2
    with pytest.raises(UserError, match="no train split to measure"):
        folder(root, tmp_path).spec  # noqa: B018


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5], [0.5]),
        ([0.5] * 3, [0.5, 0.0, 0.5]),
        ([0.5] * 3, [0.5, float("nan"), 0.5]),
        ([0.5] * 3, [0.5, float("inf"), 0.5]),
        ([0.5, float("nan"), 0.5], [0.5] * 3),
        ([0.5] * 3, None),
        (None, [0.5] * 3),
    ],
)
def test_statistics_that_cannot_normalise_are_refused(mean, std, tmp_path):
    with pytest.raises(UserError, match="`mean` and `std`"):
        folder(tmp_path, tmp_path, mean=mean, std=std)


@pytest.mark.parametrize("size", [0, -1, 4097])
@pytest.mark.parametrize("kind", [ImageFolder, ImageNet])
def test_a_size_that_is_none_is_refused(kind, size, tmp_path):
    with pytest.raises(UserError, match="`image_size` from 1 to 4096 pixels, but got"):
        kind(tmp_path, tmp_path, image_size=size)


def test_val_serves_where_there_is_no_test(root, tmp_path):
    expected = folder(root, tmp_path).test()
    (root / "test").rename(root / "val")
    assert torch.equal(folder(root, tmp_path).test().images, expected.images)


def test_an_unknown_test_class_is_named(root, tmp_path, save):
    save(root / "test" / "cow" / "0.png", seed=0)
    with pytest.raises(UserError, match="but found cow; the classes are cat, dog"):
        folder(root, tmp_path).test()


def test_overlap_of_the_splits_is_reported_with_the_first_pair(root, tmp_path, caplog):
    shutil.copy(root / "train" / "dog" / "2.png", root / "test" / "cat" / "copy.png")
    folder(root, tmp_path).train()
    assert "1 test images" in caplog.text
    assert "'cat/copy.png' = 'dog/2.png'" in caplog.text
    with pytest.raises(UserError, match="remove them or set allow_overlap=true"):
        folder(root, tmp_path, allow_overlap=False).train()


def test_disjoint_splits_are_not_reported(root, tmp_path, caplog):
    folder(root, tmp_path, allow_overlap=False).train()
    assert not caplog.text


def test_evaluation_never_reads_the_train_split(root, tmp_path):
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"unreadable")
    assert len(folder(root, tmp_path).test().labels) == 2


def test_the_aspect_ratio_is_kept_or_not(tmp_path, save):
    for name in ("train", "test"):
        wide = save(tmp_path / name / "a" / "0.png", seed=0, size=(8, 24))
        save(tmp_path / name / "b" / "0.png", seed=1, size=(8, 24))
    kept, squeezed = (
        folder(tmp_path, tmp_path, image_size=8, keep_aspect=keep).test().images[0]
        for keep in (True, False)
    )
    assert torch.equal(kept, torch.from_numpy(wide[:, 8:16]).permute(2, 0, 1))
    assert squeezed.shape == kept.shape
    assert not torch.equal(squeezed, kept)


@pytest.mark.parametrize("action", ["train", "test", "fingerprint"])
def test_the_wrong_folder_is_told_with_what_was_expected(action, tmp_path):
    with pytest.raises(UserError, match=r"train/<class>.*does not exist"):
        getattr(folder(tmp_path / "nowhere", tmp_path), action)()


def test_a_root_that_is_not_there_is_told_with_the_nearest_or_the_option(tmp_path):
    with pytest.raises(UserError, match=r"exist; say where it lies, as in dataset\.root=FOLDER"):
        folder(tmp_path / "gone" / "nowhere", tmp_path).test()
    (tmp_path / "My Shapes").mkdir()
    with pytest.raises(UserError, match=r"not exist; did you mean 'My Shapes'\?"):
        folder(tmp_path / "MyShapes", tmp_path).test()


def test_the_data_folder_is_only_read(root, tmp_path):
    def state():
        return {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}

    before = state()
    data = folder(root, tmp_path)
    data.train(), data.test(), data.unlabeled(8), data.fingerprint(), data.spec
    assert state() == before
