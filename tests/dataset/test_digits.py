import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import avg_pool2d, interpolate

from src.common.augment import Augmentation
from src.dataset.digits import Digits
from src.dataset.statistics import measure


@pytest.fixture(scope="module")
def digits():
    return Digits()


def test_the_split_is_complete_and_stratified(digits):
    train, test = digits.train(), digits.test()
    assert train.images.shape == (1437, 3, 32, 32)
    assert test.images.shape == (360, 3, 32, 32)
    share = train.labels.bincount() / (train.labels.bincount() + test.labels.bincount())
    assert (share - 0.8).abs().max() < 0.01
    assert train.labels.dtype == torch.int64


def test_the_images_are_scikit_learns_enlarged_and_each_is_used_once(digits):
    source = load_digits()
    grey = torch.tensor(source.images).unsqueeze(1) / 16 * 255
    expected = interpolate(grey, size=(32, 32), mode="bilinear").flatten(1)
    splits = (digits.train(), digits.test())
    images = torch.cat([split.images[:, 0] for split in splits]).flatten(1).double()
    nearest = torch.cdist(images, expected).argmin(dim=1)
    assert nearest.unique().numel() == 1797
    assert (images - expected[nearest]).abs().max() <= 0.5  # rounded once
    labels = torch.cat([split.labels for split in splits])
    assert torch.equal(labels, torch.tensor(source.target)[nearest])


def test_the_channels_are_equal(digits):
    images = digits.test().images
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])


def test_the_split_is_fixed(digits):
    """A changed split would make accuracies incomparable without a word."""
    again = Digits()
    assert again.fingerprint() == digits.fingerprint()
    assert digits.test().labels[:8].tolist() == [7, 6, 3, 7, 7, 3, 2, 8]


def test_the_statistics_are_those_of_the_train_split(digits):
    measured = torch.tensor(measure(digits.train().images))
    torch.testing.assert_close(torch.tensor(digits.statistics), measured, rtol=0, atol=5e-5)


def test_another_size_is_resized(digits):
    images = digits.train().images
    assert digits.unlabeled(32) is images
    halves = avg_pool2d(images[:100].float(), 2)
    assert (digits.unlabeled(16)[:100] - halves).abs().mean() < 5


def test_digits_are_never_mirrored(digits):
    assert digits.spec.augmentation == Augmentation(4)
    assert digits.class_names == tuple("0123456789")
