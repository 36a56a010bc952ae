import errno
import os
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from src.common.errors import UserError
from src.dataset.listing import (
    ImageFiles,
    class_folders,
    contents,
    files_by_annotation,
    files_by_class,
    read_annotations,
)
from src.dataset.walk import walk


def find_images(folder):
    return walk(folder).images


@pytest.fixture
def tree(tmp_path):
    """Two classes with text in place of images, and what a listing leaves out."""
    for name in ("b/2.JPEG", "b/1.png", "a/deep/x.jpg", "b/Thumbs.db", "b/._1.png", ".git/y.png"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "tree"


def test_images_are_found_at_any_depth_in_sorted_order(tree):
    assert find_images(tree) == ["a/deep/x.jpg", "b/1.png", "b/2.JPEG"]


def test_images_are_known_by_their_last_suffix(tmp_path):
    for name in ("a.png", "a.b.JPG", "a..gif", "png", "a.png.txt", "a.", ".png", "..png"):
        (tmp_path / name).write_text("")
    assert find_images(tmp_path) == ["a..gif", "a.b.JPG", "a.png"]


def test_folders_behind_links_are_followed(tree, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "class").symlink_to(tree / "b")
    assert find_images(tmp_path / "linked") == ["class/1.png", "class/2.JPEG"]


def test_labels_are_positions_of_the_classes(tree):
    files = files_by_class(tree, ["b", "a"])
    assert files.names == ("b/1.png", "b/2.JPEG", "a/deep/x.jpg")
    assert files.labels == (0, 0, 1)
    assert [os.path.exists(path) for path in files.paths] == [True] * 3


def test_a_fingerprint_is_not_made_of_an_error_that_may_pass(tree, monkeypatch):
    def stale(_path):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("src.dataset.listing.sha256_file", stale)
    with pytest.raises(UserError, match=r"Stale file handle\), which may pass: run again"):
        files_by_class(tree, ["a", "b"]).fingerprint()


def test_an_empty_class_is_named(tree):
    (tree / "c").mkdir()
    with pytest.raises(UserError, match=r"tree/c', but it holds nothing; complete it"):
        files_by_class(tree, ["a", "b", "c"])


def test_a_missing_class_is_named(tree):
    with pytest.raises(UserError, match=r"tree/c', but it does not exist"):
        files_by_class(tree, ["a", "b", "c"])


def test_an_unknown_class_is_named_unless_it_holds_no_image(tree):
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match="but found b; the classes are a"):
        files_by_class(tree, ["a"])


def test_the_signature_sees_every_change(tree):
    signatures = {files_by_class(tree, ["a", "b"]).signature()}
    signatures.add(files_by_class(tree, ["b", "a"]).signature())
    os.utime(tree / "b" / "1.png", ns=(0, 0))
    signatures.add(files_by_class(tree, ["a", "b"]).signature())
    (tree / "b" / "3.png").write_text("new")
    signatures.add(files_by_class(tree, ["a", "b"]).signature())
    assert len(signatures) == 4
    assert files_by_class(tree, ["a", "b"]).signature() in signatures


@pytest.mark.parametrize("change", ["in place", "replaced"])
def test_the_signature_sees_a_change_that_keeps_size_and_time(tree, change):
    path = tree / "b" / "1.png"
    before, old = files_by_class(tree, ["a", "b"]).signature(), path.stat()
    time.sleep(0.02)  # a tick of the clock of files
    place = path if change == "in place" else path.with_suffix(".new")
    place.write_text(path.read_text().swapcase())
    os.utime(place, ns=(old.st_atime_ns, old.st_mtime_ns))
    place.rename(path)
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    assert files_by_class(tree, ["a", "b"]).signature() != before


def test_the_fingerprint_is_that_of_a_copy_and_sees_content_and_labels(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "copy")
    first = files_by_class(tree, ["a", "b"]).fingerprint()
    assert files_by_class(tmp_path / "copy", ["a", "b"]).fingerprint() == first
    assert files_by_class(tree, ["b", "a"]).fingerprint() != first
    (tmp_path / "copy" / "b" / "1.png").write_text("other")
    assert files_by_class(tmp_path / "copy", ["a", "b"]).fingerprint() != first


def test_a_broken_link_is_listed_and_has_a_fingerprint(tmp_path):
    (tmp_path / "x.png").symlink_to(tmp_path / "nowhere.png")
    files = ImageFiles(tmp_path, tuple(find_images(tmp_path)), (0,))
    before = files.signature()
    content = files.fingerprint()
    assert files.names == ("x.png",)
    (tmp_path / "nowhere.png").write_text("now it is there")
    assert replace(files).signature() != before
    assert files.fingerprint() != content


def test_a_folder_linked_into_itself_is_read_once(tree):
    (tree / "loop").symlink_to(".")
    (tree / "b" / "loop").symlink_to("..")
    assert find_images(tree) == ["a/deep/x.jpg", "b/1.png", "b/2.JPEG"]


def test_a_link_up_from_a_class_does_not_bring_in_the_others(tree):
    (tree / "b" / "loop").symlink_to("..")
    (tree / "a" / "loop").symlink_to("..")
    files = files_by_class(tree, ["a", "b"])
    assert files.names == ("a/deep/x.jpg", "b/1.png", "b/2.JPEG")


def test_of_two_paths_to_a_folder_the_real_one_wins(tree):
    (tree / "0").symlink_to("b")
    assert find_images(tree) == ["a/deep/x.jpg", "b/1.png", "b/2.JPEG"]


def test_the_real_path_wins_at_any_depth(tree):
    (tree / "0").symlink_to("a/deep")
    (tree / "1").symlink_to("a")
    assert find_images(tree) == ["a/deep/x.jpg", "b/1.png", "b/2.JPEG"]


def test_a_folder_of_classes_linked_into_itself_is_no_class(tree):
    (tree / "tree").symlink_to(".")
    (tree / "up").symlink_to("..")
    assert class_folders(tree) == ["a", "b"]
    (tree / "c").symlink_to(".")
    with pytest.raises(UserError, match=r"Expected images in class folder '.*c'"):
        files_by_class(tree, ["a", "b", "c"])


def test_a_link_up_from_a_linked_class_does_not_bring_in_the_others(tree, tmp_path):
    (tree / "a").rename(tmp_path / "stored")
    (tree / "a").symlink_to(tmp_path / "stored")
    (tmp_path / "stored" / "loop").symlink_to(tree)
    files = files_by_class(tree, ["a", "b"])
    assert files.names == ("a/deep/x.jpg", "b/1.png", "b/2.JPEG")


def test_a_link_up_from_a_pool_does_not_bring_in_what_lies_beside_it(tree):
    (tree / "b" / "up").symlink_to("..")
    assert find_images(tree / "b") == ["1.png", "2.JPEG"]


def test_a_link_up_from_where_a_link_leads_is_not_followed_either(tree, tmp_path):
    (tree / "b" / "up").symlink_to("..")
    (tmp_path / "train" / "b").parent.mkdir()
    (tmp_path / "train" / "b").symlink_to(tree / "b")
    assert files_by_class(tmp_path / "train", ["b"]).names == ("b/1.png", "b/2.JPEG")
    assert find_images(tmp_path / "train" / "b") == ["1.png", "2.JPEG"]


def test_a_link_up_is_known_by_the_links_of_the_path_too(tree, tmp_path):
    """The training split is stored elsewhere; a link in it leads to the folder of both splits."""
    (tmp_path / "root" / "test" / "a").mkdir(parents=True)
    (tmp_path / "root" / "test" / "a" / "x.png").write_text("")
    (tmp_path / "root" / "train").symlink_to(tree)
    (tree / "a" / "loop").symlink_to(tmp_path / "root")
    files = files_by_class(tmp_path / "root" / "train", ["a", "b"])
    assert files.names == ("a/deep/x.jpg", "b/1.png", "b/2.JPEG")
    assert find_images(tmp_path / "root" / "train" / "a") == ["deep/x.jpg"]
    (tree / "root").symlink_to(tmp_path / "root")
    assert class_folders(tmp_path / "root" / "train") == ["a", "b"]


def test_a_start_behind_a_link_up_is_walked_whole(tree):
    (tree / "b" / "up").symlink_to("..")
    assert find_images(tree / "b" / "up") == ["a/deep/x.jpg", "b/1.png", "b/2.JPEG"]
    (tree / "tree").symlink_to(".")
    assert find_images(tree / "tree") == ["a/deep/x.jpg", "b/1.png", "b/2.JPEG"]


def test_a_folder_that_cannot_be_told_from_a_file_is_named(tree, monkeypatch):
    def refused():
        raise PermissionError(13, "Permission denied")

    entry = SimpleNamespace(name="link", path=f"{tree}/link", is_dir=refused)
    for module in ("listing", "walk"):
        monkeypatch.setattr(f"src.dataset.{module}.entries", lambda folder: [entry])
    for action in (find_images, class_folders):
        with pytest.raises(UserError, match=r"Cannot look into '.*link' \(Permission denied\)"):
            action(tree)


@pytest.mark.parametrize("target", ["loop", "b/1.png/x", "x" * 300])
def test_a_link_that_leads_nowhere_is_no_folder(tree, target):
    (tree / "loop").symlink_to(target)
    assert find_images(tree) == ["a/deep/x.jpg", "b/1.png", "b/2.JPEG"]
    assert class_folders(tree) == ["a", "b"]


def test_a_linked_folder_is_walked(tree, tmp_path):
    (tree / "b" / "up").symlink_to("../..")
    (tmp_path / "link").symlink_to(tree)
    assert find_images(tmp_path / "link") == ["a/deep/x.jpg", "b/1.png", "b/2.JPEG"]


def test_two_links_to_one_folder_are_one(tmp_path, tree):
    for name in ("y", "x"):
        (tmp_path / "pool" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "pool" / name).symlink_to(tree / "b")
    assert find_images(tmp_path / "pool") == ["x/1.png", "x/2.JPEG"]


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "broken", "binary"])
def test_a_list_that_is_no_text_is_named(tmp_path, kind):
    path = tmp_path / "val.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    with pytest.raises(UserError, match=r"Cannot read the list '.*val\.txt'"):
        read_annotations(path)


@pytest.mark.parametrize("text", ["\0" * 99, "val_0.JPEG", "ImageId,PredictionString"])
def test_a_list_without_a_class_is_named(text, tmp_path):
    (tmp_path / "val.txt").write_text(text)
    with pytest.raises(UserError, match=r"lines '<file> <class>' in '.*val\.txt', but found none"):
        read_annotations(tmp_path / "val.txt")


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "val.txt").write_text("val_0.JPEG n01", encoding="utf-8-sig")
    assert read_annotations(tmp_path / "val.txt") == {"val_0": "n01"}


@pytest.mark.parametrize(
    "text",
    [
        "val_1.JPEG\tn02\t0\t32\t44\t62\nval_0.JPEG\tn01\t52\t55\t57\t59\n",
        "ImageId,PredictionString\nval_0,n01 1 2 3 4 n01 5 6 7 8\nval_1,n02 1 2 3 4\n",
        "val_0.JPEG n01\nval_1.JPEG n02\n\n",
    ],
    ids=["tiny_imagenet", "kaggle", "pairs"],
)
def test_annotations_are_read_in_every_published_form(text, tmp_path):
    (tmp_path / "list").write_text(text)
    assert read_annotations(tmp_path / "list") == {"val_0": "n01", "val_1": "n02"}


def test_annotations_may_be_labels(tree):
    files = files_by_annotation(tree / "b", {"1": "1", "2": "n01"}, ["n01", "n02"])
    assert files.names == ("1.png", "2.JPEG")
    assert files.labels == (1, 0)


@pytest.mark.parametrize(("annotations", "seen"), [({"2": "n01"}, "none"), ({"1": "9"}, "9")])
def test_an_image_without_a_known_class_is_named(annotations, seen, tree):
    with pytest.raises(UserError, match=f"annotation of '1.png' is '{seen}'"):
        files_by_annotation(tree / "b", annotations, ["n01", "n02"])


def test_contents_are_said_in_words(tree):
    assert contents(tree) == "it holds .git, a, b"
    assert contents(tree / "b" / "1.png") == "it is a file"
    assert contents(tree / "no") == "it does not exist"
    for number in range(9):
        (tree / "b" / "deep" / f"{number}").mkdir(parents=True)
    assert contents(tree / "b" / "deep") == "it holds 0, 1, 2, 3, 4 and 4 more"
