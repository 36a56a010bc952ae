import pytest
import torch
from sklearn.datasets import load_sample_images
from torch.nn.functional import avg_pool2d

from src.common.errors import UserError
from src.dataset.photo_patches import PhotoPatches
from src.dataset.statistics import measure


@pytest.fixture(scope="module")
def photographs():
    return [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]


def found(patch, photograph):
    """Whether the patch ``[3, s, s]`` is a piece of the photograph, unchanged."""
    rows = photograph[0].unfold(1, patch.shape[2], 1)
    places = (rows == patch[0, 0]).all(dim=2).nonzero()
    side = patch.shape[1]
    pieces = (photograph[:, y : y + side, x : x + side] for y, x in places.tolist())
    return any(torch.equal(piece, patch) for piece in pieces)


def test_patches_of_the_target_size_are_pieces_of_both_photographs(photographs):
    images = PhotoPatches(num_images=30, grey=False, stretch=False).unlabeled(16)
    hits = [sum(found(patch, photo) for patch in images) for photo in photographs]
    assert min(hits) >= 1
    assert sum(hits) < 30  # the others come from larger pieces


def test_the_pool_depends_on_the_seed_alone():
    first, same, other = (PhotoPatches(num_images=50, seed=s).unlabeled(16) for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_by_default_patches_are_grey_and_use_the_full_range():
    images = PhotoPatches(num_images=100).unlabeled(32)
    assert images.shape == (100, 3, 32, 32)
    assert torch.equal(images[:, :1].expand(-1, 3, -1, -1), images)
    assert (images.amin(dim=(1, 2, 3)) == 0).float().mean() > 0.95
    assert (images.amax(dim=(1, 2, 3)) == 255).float().mean() > 0.95


def test_colour_and_contrast_can_be_kept():
    images = PhotoPatches(num_images=100, grey=False, stretch=False).unlabeled(32)
    assert not torch.equal(images[:, 0], images[:, 1])
    assert (images.amax(dim=(1, 2, 3)) == 255).float().mean() < 0.5


def test_a_flat_patch_stays_flat():
    flat = PhotoPatches(num_images=1)._finish(torch.full((1, 1, 20, 20), 80), 16)
    assert flat.unique().tolist() == [0]


def test_every_size_shows_the_same_patches():
    pool = PhotoPatches(num_images=40, grey=False, stretch=False)
    large, small = pool.unlabeled(32).float(), pool.unlabeled(16).float()
    assert (avg_pool2d(large, 2) - small).abs().mean() < 4
    assert (avg_pool2d(large.roll(1, dims=0), 2) - small).abs().mean() > 40


def test_statistics_are_measured():
    pool = PhotoPatches(num_images=30)
    assert pool.statistics == measure(pool.unlabeled(32))


def test_the_fingerprint_covers_every_option():
    options = [{}, {"num_images": 5}, {"seed": 1}, {"grey": False}, {"stretch": False}]
    assert len({PhotoPatches(**option).fingerprint() for option in options}) == 5
    assert PhotoPatches().fingerprint() == PhotoPatches().fingerprint()


def test_an_empty_pool_is_refused():
    with pytest.raises(UserError, match="`num_images` >= 1, but got 0"):
        PhotoPatches(num_images=0)
