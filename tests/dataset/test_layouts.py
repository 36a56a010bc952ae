"""Folders of images as people have them: what is read, what is refused, and what is said."""

import os
import shutil
import zipfile

import pytest
from PIL import Image

from src.common.errors import UserError
from src.dataset.folder_pool import FolderPool
from src.dataset.image_folder import ImageFolder

CLASSES = ("cat", "dog")
WHOLE = (6, 4)


@pytest.fixture
def root(tmp_path, grow):
    """Two classes with three training and two test images each."""
    grow(tmp_path / "mine" / "train", CLASSES, each=3, size=8)
    grow(tmp_path / "mine" / "test", CLASSES, each=2, first_seed=100, size=8)
    return tmp_path / "mine"


@pytest.fixture(autouse=True)
def all_is_logged(caplog):
    caplog.set_level("INFO")


def image_folder(root, **options):
    return ImageFolder(root, root.parent / "cache", **{"image_size": 8, **options})


def counts(root, **options):
    """Numbers of training and test images."""
    data = image_folder(root, **options)
    return len(data.train().labels), len(data.test().labels)


def refused(root, **options):
    """What is said of a folder that is not read."""
    with pytest.raises(UserError) as error:
        counts(root, **options)
    return str(error.value)


def picture(path, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (len(path.name), 90, 30)).save(path, kind)


def rename(**names):
    def change(root):
        for old, new in names.items():
            (root / old).rename(root / new)

    return change


def picture_in(name, kind="PNG"):
    return lambda root: picture(root / name, kind)


def write(name, content=b"x"):
    def change(root):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    return change


READ = {
    "train, val": (rename(test="val"), WHOLE),
    "train, validation": (rename(test="validation"), WHOLE),
    "train, valid": (rename(test="valid"), WHOLE),
    "Train, Test": (rename(train="Train", test="Test"), WHOLE),
    "TRAINING, TESTING": (rename(train="TRAINING", test="TESTING"), WHOLE),
    "val without a class beside test": (lambda root: (root / "val").mkdir(), WHOLE),
    "hidden": (picture_in("train/cat/.ipynb_checkpoints/0-checkpoint.png"), WHOLE),
    "a hidden class": (picture_in("train/.ipynb_checkpoints/0.png"), WHOLE),
    "macOS": (write("train/__MACOSX/cat/._0.png"), WHOLE),
    "macOS, resource fork": (write("train/cat/._0.png"), WHOLE),
    "Synology": (picture_in("train/cat/@eaDir/0.png/SYNOFILE_THUMB_M.png"), WHOLE),
    "Synology, class": (picture_in("test/@eaDir/0.png"), WHOLE),
    "Windows": (write("train/cat/Thumbs.db"), WHOLE),
    "Windows, split": (write("train/desktop.ini"), WHOLE),
    "jfif": (picture_in("train/cat/x.jfif", "JPEG"), (7, 4)),
    "JPE": (picture_in("train/cat/x.JPE", "JPEG"), (7, 4)),
    "jp2": (picture_in("train/cat/x.jp2", "JPEG2000"), (7, 4)),
    "avif": (picture_in("train/cat/x.avif", "AVIF"), (7, 4)),
    "tga": (picture_in("train/cat/x.tga", "TGA"), (7, 4)),
    "avif named jpg": (picture_in("train/cat/x.jpg", "AVIF"), (7, 4)),
    "documents": (lambda root: [write(f"train/cat/x.{s}")(root) for s in ("pdf", "eps")], WHOLE),
    "nested": (picture_in("train/cat/a/b/x.png"), (7, 4)),
    "a class without test images": (lambda root: shutil.rmtree(root / "test" / "dog"), (6, 2)),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_read(name, root):
    change, expected = READ[name]
    change(root)
    assert counts(root) == expected
    assert image_folder(root).class_names == CLASSES


@pytest.mark.parametrize(
    ("splits", "taken", "unused"),
    [
        (("test", "val", "valid"), "test", "val, valid"),
        (("val", "validation"), "val", "validation"),
        (("Test", "val"), "Test", "val"),
        (("test", "TEST"), "test", "TEST"),
    ],
)
def test_of_several_evaluation_splits_one_is_taken_and_named(
    splits, taken, unused, root, grow, caplog
):
    (root / "test").rename(root / "other")
    for number, split in enumerate(splits, start=1):
        grow(root / split, CLASSES, each=number, first_seed=1000 * number, size=8)
    assert counts(root) == (6, 2 * (1 + splits.index(taken)))
    said = f"The test split is '{taken}' in '{root}'; not used: {unused}"
    assert caplog.messages.count(said) == 1


def test_an_unlabelled_test_split_gives_way_to_val(root, tmp_path, caplog):
    (root / "test").rename(root / "val")
    picture(root / "test" / "0.png")
    assert counts(root) == WHOLE
    assert f"The test split is 'val' in '{root}'; not used: test" in caplog.messages


def test_classes_without_test_images_are_named_and_counted(root, grow, caplog):
    grow(root / "train", ("eel", "fox"), each=1, first_seed=50, size=8)
    (root / "test" / "fox").mkdir()
    data = image_folder(root)
    assert data.test().labels.tolist() == [0, 0, 1, 1]
    assert data.spec.num_classes == 4
    said = f"2 of 4 classes have no image in '{root}/test' (eel, fox): accuracy is over the others"
    assert caplog.messages.count(said) == 1


def test_a_test_split_without_any_image_is_refused(root):
    for name in CLASSES:
        shutil.rmtree(root / "test" / name)
        (root / "test" / name).mkdir()
    assert "Expected images in class folder" in refused(root)


@pytest.mark.parametrize(
    ("names", "pair"),
    [
        (("cat", "Dog"), "'Dog' is probably 'dog': rename one of them"),
        (("hot-dog", "hot_dog"), "'hot_dog' is probably 'hot-dog': rename one of them"),
        # The same letters, composed and not: both look the same in a terminal.
        (("ko\u0308ter", "k\xf6ter"), r"'k\xf6ter' is probably 'ko\u0308ter': rename one of them"),
    ],
)
def test_a_class_of_the_test_split_that_train_lacks_is_named_with_its_likely_twin(
    names, pair, tmp_path, grow
):
    trained = {"Dog": "dog", "hot_dog": "hot-dog", "k\xf6ter": "ko\u0308ter"}[names[1]]
    grow(tmp_path / "train", ("ant", trained), each=1, size=8)
    grow(tmp_path / "test", ("ant", names[1]), each=1, size=8)
    said = refused(tmp_path)
    assert f"but found {names[1]}; the classes are ant, {trained}; " in said
    assert said.endswith(pair)


def test_what_is_left_out_is_counted_by_suffix_in_one_line(root, caplog):
    for name in ("a.heic", "b.HEIC", "c.pdf", "README"):
        write(f"train/cat/{name}")(root)
    assert counts(root) == WHOLE
    said = f"Left out of '{root}/train', as no images: 2 .heic, 1 without suffix, 1 .pdf"
    assert caplog.messages.count(said) == 1


def test_a_class_or_pool_of_nothing_else_is_refused_with_the_suffixes(root, tmp_path):
    for name in ("a.heic", "b.heic"):
        write(f"train/eel/{name}")(root)
    assert "a.heic, b.heic and no image that is read here (2 .heic)" in refused(root)
    with pytest.raises(UserError, match=r"not only 2 \.heic, at any depth"):
        FolderPool(root / "train" / "eel", tmp_path / "cache").unlabeled(8)


def test_a_pool_leaves_litter_out_and_names_other_suffixes(root, tmp_path, caplog):
    for name in ("__MACOSX/0.png", "@eaDir/0.png", ".git/0.png", "Thumbs.db", "x.heic"):
        write(f"train/{name}")(root)
    assert len(FolderPool(root / "train", tmp_path / "cache").unlabeled(8)) == 6
    assert f"Left out of '{root}/train', as no images: 1 .heic" in caplog.messages


def test_a_test_split_without_labels_does_not_hide_one_with_classes(root, caplog):
    (root / "test").rename(root / "val")
    picture(root / "test" / "images" / "test_0.png")
    assert counts(root) == WHOLE
    assert f"The test split is 'val' in '{root}'; not used: test" in caplog.messages


def break_link(root):
    (root / "train" / "cat" / "link.png").symlink_to("nowhere.png")


@pytest.mark.parametrize("damage", [break_link, write("train/cat/x.jpg", b"<html>")])
def test_the_unreadable_are_counted_by_class_in_every_run(damage, root, caplog):
    damage(root)
    said = refused(root)
    assert f"1 of 7 images in '{root}/train' (cat: 1) cannot be decoded, first 'cat/" in said
    assert said.endswith("replace them, or leave them out with skip_corrupt=true")
    for _ in range(2):
        caplog.clear()
        assert counts(root, skip_corrupt=True) == WHOLE
        assert f"1 of 7 images in '{root}/train' (cat: 1) cannot be decoded" in caplog.text


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_that_would_be_emptied_is_refused(split, root):
    for path in (root / split / "dog").iterdir():
        path.write_bytes(b"no image")
    said = refused(root, skip_corrupt=True)
    assert "none can be decoded of dog, first 'dog/0.png'" in said


NUMBERS = tuple(map(str, range(12)))
BY_NAME = ("0", "1", "10", "11", *NUMBERS[2:10])


@pytest.mark.parametrize(
    ("order", "expected", "is_doubtful"),
    [(None, BY_NAME, True), ("name", BY_NAME, False), ("natural", NUMBERS, False)],
)
def test_numbered_classes_are_labelled_in_the_order_asked_for(
    order, expected, is_doubtful, tmp_path, grow, caplog
):
    grow(tmp_path / "mine" / "train", NUMBERS, each=1, size=8)
    grow(tmp_path / "mine" / "test", NUMBERS, each=1, first_seed=50, size=8)
    data = image_folder(tmp_path / "mine", order=order)
    assert data.class_names == expected
    assert data.train().labels.tolist() == list(range(12))
    assert (data.doubtful_order is not None) == is_doubtful
    orders = "are 0, 1, 10, 11, 2 and 7 more by name, 0, 1, 2, 3, 4 and 7 more by number"
    assert (orders in caplog.text) == (order != "natural")


@pytest.mark.parametrize("names", [NUMBERS[:10], ("00", "01", "10"), CLASSES])
def test_classes_whose_orders_agree_leave_no_doubt(names, tmp_path, grow, caplog):
    grow(tmp_path / "train", names, each=1, size=8)
    grow(tmp_path / "test", names, each=1, first_seed=50, size=8)
    assert counts(tmp_path) == (len(names), len(names))
    assert image_folder(tmp_path).doubtful_order is None
    assert "by number" not in caplog.text


@pytest.mark.parametrize("depth", ["x", "x/y"])
def test_a_folder_above_the_splits_is_enough(depth, root, tmp_path, caplog):
    inner = tmp_path / "above" / depth
    inner.parent.mkdir(parents=True)
    root.rename(inner)
    (tmp_path / "above" / "labels" / "train").mkdir(parents=True)  # YOLO's, without class folders
    assert counts(tmp_path / "above") == WHOLE
    said = f"The data set of '{tmp_path}/above' was found in '{inner}'"
    assert caplog.messages.count(said) == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_stands_for_the_data_set_it_is_of(split, root, caplog):
    assert counts(root / split) == WHOLE
    assert f"The data set of '{root}/{split}' was found in '{root}'" in caplog.messages


def test_several_data_sets_in_a_folder_are_refused_with_their_names(root, tmp_path):
    for name in ("amazon", "webcam"):
        shutil.copytree(root, tmp_path / "office" / name)
    said = refused(tmp_path / "office")
    assert "but found train splits in amazon, webcam; set `root` to one of these" in said


def unpack_as_python_does(root):
    """A zip file made on Windows, whose names hold backslashes."""
    archive = root.parent / "windows.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*.png")):
            entry = zipfile.ZipInfo()
            entry.filename = str(path.relative_to(root)).replace("/", "\\")
            file.writestr(entry, path.read_bytes())
    shutil.rmtree(root)
    zipfile.ZipFile(archive).extractall(root)


def flatten(root):
    for split in ("train", "test"):
        for path in sorted((root / split).rglob("*.png")):
            path.rename(root / split / f"{path.parent.name}_{path.name}")
        for name in CLASSES:
            (root / split / name).rmdir()


def only_classes(root):
    shutil.rmtree(root / "test")
    for name in CLASSES:
        (root / "train" / name).rename(root / name)
    (root / "train").rmdir()


def one_class(root):
    for split in ("train", "test"):
        shutil.rmtree(root / split / "dog")


def one_colour(root):
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        Image.new("RGB", (8, 8), (100, 9, number)).save(path)


REFUSED = {
    "Windows zip": (
        unpack_as_python_does,
        ("it holds test\\cat\\0.png", "made on Windows: unpack it again with `unzip` or 7-Zip"),
    ),
    "flat": (
        flatten,
        ("'train/<class>/*.jpg'", "'train' holds images (cat_0.png,", "'train/<class>/'"),
    ),
    "no splits": (
        only_classes,
        ("'train/<class>/*.jpg'", "it holds cat, dog; if these folders are classes, move them"),
    ),
    "an empty class": (
        lambda root: (root / "train" / "eel").mkdir(),
        ("train/eel', but it holds nothing; complete it or remove the class",),
    ),
    "one class": (one_class, ("two classes or more", "but found only cat; ", "folder_pool")),
    "one colour": (one_colour, ("the same value in a channel", "set `mean` and `std`")),
    "no train": (lambda root: shutil.rmtree(root / "train"), ("no train split to measure",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name, root):
    change, expected = REFUSED[name]
    change(root)
    with pytest.raises(UserError) as error:
        (image_folder(root).fingerprint(), image_folder(root).spec)
    assert [part for part in expected if part not in str(error.value)] == []
    assert os.linesep not in str(error.value)


def test_many_classes_of_one_image_are_read(tmp_path, grow):
    names = tuple(f"c{number:03d}" for number in range(200))
    grow(tmp_path / "train", names, each=1, size=1)
    grow(tmp_path / "test", names[:1], each=1, first_seed=500, size=1)
    assert counts(tmp_path) == (200, 1)
