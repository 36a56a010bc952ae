import os
import shutil

import pytest
import torch
from scipy.io import savemat

from src.common.augment import Augmentation
from src.common.errors import UserError
from src.dataset.imagenet import ImageNet
from src.dataset.tiny_imagenet import TinyImageNet

SYNSETS = ("n01", "n02", "n03")


@pytest.fixture(autouse=True)
def three_classes(monkeypatch):
    for dataset in (TinyImageNet, ImageNet):
        monkeypatch.setattr(dataset, "num_classes", 3)
        monkeypatch.setattr(dataset, "official_counts", {"train": 6, "test": 3})


@pytest.fixture
def tiny(tmp_path, grow):
    """Tiny-ImageNet as distributed; validation image ``i`` is of class ``2 - i``."""
    root = tmp_path / "tiny"
    for label, synset in enumerate(SYNSETS):
        grow(root / "train" / synset, ("images",), first_seed=10 * label, size=64)
    grow(root / "val", ("images",), each=3, first_seed=100, size=64)
    lines = [f"{i}.png\t{SYNSETS[2 - i]}\t0\t0\t62\t62\n" for i in range(3)]
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("n03\nn01\nn02\n")
    (root / "words.txt").write_text("n00\tentity\nn02\tsecond, other\nn01\tfirst\n")
    return root


@pytest.fixture
def imagenet(tmp_path, grow):
    """ImageNet with sorted validation folders."""
    root = tmp_path / "imagenet"
    grow(root / "train", SYNSETS, size=80)
    grow(root / "val", SYNSETS, each=1, first_seed=100, size=80)
    return root


def flatten(root, text, name):
    """Put the validation images flat beside a list of their classes."""
    for number, synset in enumerate(SYNSETS):
        (root / "val" / synset / "0.png").rename(root / "val" / f"val_{2 - number}.png")
        (root / "val" / synset).rmdir()
    (root / name).write_text(text)


def test_tiny_imagenet_is_read_as_distributed(tiny, tmp_path, caplog):
    data = TinyImageNet(tiny, tmp_path / "cache")
    assert data.train().labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test().labels.tolist() == [2, 1, 0]
    assert data.test().images.shape == (3, 3, 64, 64)
    assert data.unlabeled(32).shape == (6, 3, 32, 32)
    assert not caplog.text


@pytest.mark.parametrize("inner", ["images", ""])
def test_tiny_imagenet_is_read_reorganised(inner, tiny, tmp_path):
    expected = TinyImageNet(tiny, tmp_path / "cache").test().images
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    for number in range(3):
        folder = copy / "val" / SYNSETS[2 - number] / inner
        folder.mkdir(parents=True)
        (copy / "val" / "images" / f"{number}.png").rename(folder / f"{number}.png")
    test = TinyImageNet(copy, tmp_path / "cache").test()
    assert test.labels.tolist() == [0, 1, 2]
    assert torch.equal(test.images, expected.flip(0))


def test_tiny_imagenets_classes_are_in_sorted_order_with_their_words(tiny, tmp_path):
    data = TinyImageNet(tiny, tmp_path / "cache")
    assert data.synsets == SYNSETS
    assert data.class_names == ("first", "second, other", "n03")
    (tiny / "words.txt").unlink()
    assert TinyImageNet(tiny, tmp_path / "cache").class_names == SYNSETS


def test_a_reduced_copy_is_a_warning(tiny, tmp_path, caplog):
    (tiny / "train" / "n01" / "images" / "0.png").unlink()
    assert len(TinyImageNet(tiny, tmp_path / "cache").train().labels) == 5
    assert "holds 5 images instead of 6" in caplog.text


def test_a_validation_image_without_annotation_is_an_error(tiny, tmp_path, save):
    save(tiny / "val" / "images" / "new.png", seed=0)
    with pytest.raises(UserError, match=r"annotation of 'new.png' is 'none'"):
        TinyImageNet(tiny, tmp_path / "cache").test()


def test_both_statistics_of_the_field_can_be_had(tmp_path):
    usual = TinyImageNet(tmp_path, tmp_path).spec
    assert (usual.image_size, usual.augmentation) == (64, Augmentation(4, 0.5))
    assert usual.mean == (0.485, 0.456, 0.406)
    half = TinyImageNet(tmp_path, tmp_path, statistics="half")
    assert half.statistics == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(UserError, match=r"\['imagenet', 'half'\], but got 'quarter'"):
        TinyImageNet(tmp_path, tmp_path, statistics="quarter")


def test_imagenet_is_read_from_folders(imagenet, tmp_path):
    data = ImageNet(imagenet, tmp_path / "cache", image_size=28)
    assert data.train().images.shape == (6, 3, 28, 28)
    assert data.train().labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test().labels.tolist() == [0, 1, 2]


def test_imagenet_as_a_pool_shows_whole_images(imagenet, tmp_path):
    data = ImageNet(imagenet, tmp_path / "cache", image_size=28)
    assert data.unlabeled(16).shape == (6, 3, 16, 16)
    kept = [path.name for path in (tmp_path / "cache" / "dataset").iterdir() if path.is_dir()]
    assert [name.rsplit("-", 1)[0] for name in kept] == ["imagenet-train-16"]
    assert torch.equal(data.unlabeled(28), data.train().images)


@pytest.mark.parametrize("name", ["LOC_val_solution.csv", "val/LOC_val_solution.csv"])
def test_imagenet_is_read_with_kaggles_solution(name, imagenet, tmp_path):
    rows = [f"val_{i},{SYNSETS[2 - i]} 1 2 3 4 \n" for i in range(3)]
    flatten(imagenet, "ImageId,PredictionString\n" + "".join(rows), name)
    assert ImageNet(imagenet, tmp_path / "cache").test().labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize("classes", [SYNSETS, ("0", "1", "2")])
@pytest.mark.parametrize("with_train", [True, False])
def test_imagenet_is_read_with_a_list(classes, with_train, imagenet, tmp_path):
    flatten(imagenet, "".join(f"val_{i}.png {classes[2 - i]}\n" for i in range(3)), "val.txt")
    if not with_train:
        shutil.rmtree(imagenet / "train")
    assert ImageNet(imagenet, tmp_path / "cache").test().labels.tolist() == [2, 1, 0]


@pytest.fixture
def devkit(imagenet):
    """Unsorted validation images beside the development kit, whose identifiers are not sorted."""
    data = imagenet / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    synsets = [
        {"ILSVRC2012_ID": number, "WNID": wnid, "num_children": 0}
        for number, wnid in ((1, "n03"), (2, "n01"), (3, "n02"), (4, "n00"))
    ]
    savemat(data / "meta.mat", {"synsets": synsets})
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n3\n")
    for number, synset in enumerate(SYNSETS):
        name = f"ILSVRC2012_val_{number + 1:08d}.png"
        (imagenet / "val" / synset / "0.png").rename(imagenet / "val" / name)
        (imagenet / "val" / synset).rmdir()
    return data.parent


@pytest.mark.parametrize("packed", [False, True])
def test_imagenet_is_read_with_the_development_kit(packed, devkit, imagenet, tmp_path):
    if packed:
        shutil.make_archive(str(devkit), "gztar", imagenet, devkit.name)
        shutil.rmtree(devkit)
    assert ImageNet(imagenet, tmp_path / "cache").test().labels.tolist() == [0, 2, 1]


@pytest.mark.parametrize("damage", ["meta.mat", "ILSVRC2012_validation_ground_truth.txt"])
@pytest.mark.parametrize("content", [b"7\n", None])
def test_a_damaged_development_kit_is_named(damage, content, devkit, imagenet, tmp_path):
    path = devkit / "data" / damage
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=r"Cannot read the development kit .*meta\.mat"):
        ImageNet(imagenet, tmp_path / "cache").test()


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", ["data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"])
def test_a_pipe_in_the_development_kit_is_not_read(name, devkit, imagenet, tmp_path):
    (devkit / name).unlink()
    os.mkfifo(devkit / name)
    with pytest.raises(UserError, match=r"Cannot read the development kit .*no regular file"):
        ImageNet(imagenet, tmp_path / "cache").test()


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("damage", ["pipe", "broken", "content"])
def test_a_damaged_archive_of_the_development_kit_is_named(damage, devkit, imagenet, tmp_path):
    shutil.rmtree(devkit)
    archive = devkit.with_name(f"{devkit.name}.tar.gz")
    if damage == "pipe":
        os.mkfifo(archive)
    elif damage == "broken":
        archive.symlink_to("nowhere")
    else:
        archive.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"Cannot read the development kit '.*\.tar\.gz'"):
        ImageNet(imagenet, tmp_path / "cache").test()


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("kind", ["pipe", "broken", "binary"])
@pytest.mark.parametrize("name", ["words.txt", "val/val_annotations.txt"])
def test_a_list_that_is_no_text_is_named(kind, name, tiny, tmp_path):
    path = tiny / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "broken":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(b"\xff\xfe\x00")
    data = TinyImageNet(tiny, tmp_path / "cache")
    with pytest.raises(UserError, match=f"Cannot read the list '.*{name}'"):
        (data.class_names, data.test())


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("kind", ["pipe", "device", "broken", "folder"])
def test_an_annotated_image_that_is_no_file_is_unreadable(kind, tiny, tmp_path, caplog, save):
    save(tiny / "val" / "images" / "3.png", seed=0)
    with (tiny / "val" / "val_annotations.txt").open("a") as file:
        file.write("3.png\tn02\t0\t0\t62\t62\n")
    path = tiny / "val" / "images" / "1.png"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    data = TinyImageNet(tiny, tmp_path / "cache")
    assert len(data.fingerprint()) == 64
    with pytest.raises(UserError, match=r"1 of 4 images .*'1\.png'.*skip_corrupt=true"):
        data.test()
    kept = TinyImageNet(tiny, tmp_path / "cache", skip_corrupt=True).test()
    assert kept.labels.tolist() == [2, 0, 1]
    assert "1.png" in caplog.text


def test_imagenet_without_a_list_says_which_are_read(imagenet, tmp_path):
    flatten(imagenet, "", "other.txt")
    with pytest.raises(UserError, match=r"a test split .*LOC_val_solution.csv.*val.txt"):
        ImageNet(imagenet, tmp_path / "cache").test()


def test_the_validation_set_alone_is_enough_for_evaluation(imagenet, tmp_path):
    shutil.rmtree(imagenet / "train")
    data = ImageNet(imagenet, tmp_path / "cache")
    assert data.test().images.shape == (3, 3, 224, 224)
    assert len(data.fingerprint()) == 64
    with pytest.raises(UserError, match="a train split"):
        data.unlabeled(32)


def test_folders_that_are_no_synsets_are_never_labels_in_sorted_order(imagenet, tmp_path):
    (imagenet / "train" / "n02").rename(imagenet / "train" / "1")
    with pytest.raises(UserError, match=r"WordNet identifier.*but found 1: .*image_folder"):
        ImageNet(imagenet, tmp_path / "cache").train()


@pytest.mark.parametrize("inner", ["", "ILSVRC", "ILSVRC/Data/CLS-LOC"])
@pytest.mark.parametrize("name", ["LOC_val_solution.csv", "ILSVRC2012_devkit_t12.tar.gz"])
def test_kaggles_archive_is_read_from_its_root_and_within(inner, name, devkit, tmp_path, grow):
    """Bounding boxes and the unlabelled test images lie where another split could be sought."""
    kaggle, splits = tmp_path / "kaggle", tmp_path / "kaggle" / "ILSVRC" / "Data" / "CLS-LOC"
    splits.mkdir(parents=True)
    if name.endswith(".csv"):
        rows = [f"ILSVRC2012_val_{i + 1:08d},{SYNSETS[i]} 1 2 3 4\n" for i in range(3)]
        (kaggle / name).write_text("ImageId,PredictionString\n" + "".join(rows))
        expected = [0, 1, 2]
    else:
        shutil.make_archive(str(kaggle / devkit.name), "gztar", devkit.parent, devkit.name)
        expected = [0, 2, 1]
    for split in ("train", "val"):
        (devkit.parent / split).rename(splits / split)
    grow(splits, ("test",), first_seed=500)
    for synset in SYNSETS:
        (kaggle / "ILSVRC" / "Annotations" / "CLS-LOC" / "train" / synset).mkdir(parents=True)
    lists = kaggle / "ILSVRC" / "ImageSets" / "CLS-LOC"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("ILSVRC2012_val_00000001 1\n")
    data = ImageNet(kaggle / inner, tmp_path / "cache")
    assert data.train().labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test().labels.tolist() == expected
    assert kaggle / name in data.sources()


@pytest.mark.parametrize("litter", ["__MACOSX", "@eaDir", ".ipynb_checkpoints"])
@pytest.mark.parametrize("place", ["train", "val", "train/n01", "val/images"])
def test_litter_is_no_class_and_no_image(litter, place, tiny, tmp_path, save):
    save(tiny / place / litter / "n01" / "0.png", seed=1)
    (tiny / place / "Thumbs.db").write_bytes(b"x")
    (tiny / place / "._0.png").write_bytes(b"x")
    data = TinyImageNet(tiny, tmp_path / "cache")
    assert (data.synsets, len(data.train().labels), len(data.test().labels)) == (SYNSETS, 6, 3)


def test_another_number_of_classes_is_refused(imagenet, tmp_path):
    shutil.rmtree(imagenet / "train" / "n02")
    data = ImageNet(imagenet, tmp_path / "cache")
    with pytest.raises(UserError, match=r"Expected 3 classes .* but found 2; .*image_folder"):
        data.train()


@pytest.mark.parametrize("dataset", [TinyImageNet, ImageNet])
@pytest.mark.parametrize("action", ["train", "test", "fingerprint"])
def test_the_wrong_folder_is_told_with_what_was_expected(dataset, action, tmp_path):
    (tmp_path / "n01").mkdir()
    data = dataset(tmp_path, tmp_path / "cache")
    with pytest.raises(UserError, match=r"train/<wnid>.*val/.*it holds n01"):
        getattr(data, action)()


def test_imagenets_class_names_need_no_file(tmp_path):
    names = ImageNet(tmp_path / "nowhere", tmp_path).class_names
    assert (len(names), names[0], names[999]) == (1000, "tench", "toilet tissue")


def test_imagenet_is_trained_on_resized_crops(tmp_path):
    assert ImageNet(tmp_path, tmp_path).spec.augmentation == Augmentation(28, 0.5, (0.08, 1.0))
