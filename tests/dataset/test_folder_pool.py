import os
import socket

import pytest
import torch

from src.common.errors import UserError
from src.dataset.folder_pool import FolderPool


@pytest.fixture
def root(tmp_path, save):
    for seed, name in enumerate(("b.png", "a/deep/x.jpg", "c/y.webp")):
        save(tmp_path / "pool" / name, seed, (16, 24))
    return tmp_path / "pool"


def test_all_images_at_any_depth_come_in_sorted_order(root, tmp_path):
    pool = FolderPool(root, tmp_path / "cache")
    images = pool.unlabeled(8)
    assert images.shape == (3, 3, 8, 8)
    assert images.dtype == torch.uint8
    (root / "b.png").unlink()
    assert torch.equal(pool.unlabeled(8), images[[0, 2]])


def test_the_aspect_ratio_is_kept_on_request(root, tmp_path):
    squeezed = FolderPool(root, tmp_path / "cache").unlabeled(16)
    kept = FolderPool(root, tmp_path / "cache", keep_aspect=True).unlabeled(16)
    assert kept.shape == squeezed.shape
    assert not torch.equal(kept, squeezed)


def test_the_fingerprint_follows_content(root, tmp_path, save):
    pool = FolderPool(root, tmp_path / "cache")
    first = pool.fingerprint()
    assert pool.fingerprint() == first
    save(root / "b.png", seed=9)
    assert pool.fingerprint() != first


def test_corrupt_images_stop_or_are_left_out(root, tmp_path):
    (root / "b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="1 of 3 images"):
        FolderPool(root, tmp_path / "cache").unlabeled(8)
    assert len(FolderPool(root, tmp_path / "cache", skip_corrupt=True).unlabeled(8)) == 2


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "broken", "folder"])
def test_what_is_no_file_is_unreadable(kind, root, tmp_path, caplog, monkeypatch):
    path = root / "z.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(root)  # the path of a socket must be short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")
    pool = FolderPool(root, tmp_path / "cache")
    assert pool.fingerprint() == pool.fingerprint()
    with pytest.raises(UserError, match=r"1 of 4 images .*'z\.png'.*skip_corrupt=true"):
        pool.unlabeled(8)
    assert len(FolderPool(root, tmp_path / "cache", skip_corrupt=True).unlabeled(8)) == 3
    assert "z.png" in caplog.text


def test_statistics_are_those_given(tmp_path):
    pool = FolderPool(tmp_path, tmp_path, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    assert pool.statistics == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize("std", [[1.0], [1, 1, 0], [1, 1, float("nan")], [1, 1, float("inf")]])
def test_statistics_that_cannot_normalise_are_refused(std, tmp_path):
    with pytest.raises(UserError, match="three finite numbers each"):
        FolderPool(tmp_path, tmp_path, std=std)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4]),
        ([0.5, 0.5, 1.1], [0.2] * 3),
        ([-0.1, 0, 0], [0.2] * 3),
        ([0.5] * 3, [0.2, 0.2, 2]),
    ],
)
def test_statistics_of_other_pixels_are_refused(mean, std, tmp_path):
    with pytest.raises(UserError, match=r"divide those of pixels in 0\.\.255 by 255"):
        FolderPool(tmp_path, tmp_path, mean=mean, std=std)


def test_a_folder_without_images_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    for action in (lambda p: p.unlabeled(8), lambda p: p.fingerprint()):
        with pytest.raises(UserError, match=r"Expected images .*it holds notes.txt"):
            action(FolderPool(tmp_path, tmp_path / "cache"))
