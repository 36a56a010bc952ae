import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from src.inside.frechet import FrechetDistance


def distance(images: Tensor, originals: Tensor, parts: int = 1) -> float | None:
    measure = FrechetDistance(images.shape[1])
    for part in images.chunk(parts):
        measure.add_images(part)
    for part in originals.chunk(parts):
        measure.add_originals(part)
    assert (measure.images, measure.originals) == (len(images), len(originals))
    return measure.value()


def whitened(rows: Tensor) -> Tensor:
    """Rows whose mean is 0 and whose covariance is the identity, exactly."""
    centred = rows - rows.mean(0)
    factor = torch.linalg.cholesky(torch.cov(centred.T))
    return torch.linalg.solve_triangular(factor, centred.T, upper=False).T


def test_two_gaussians_whose_covariances_commute() -> None:
    rows = whitened(torch.randn(200, 3, dtype=torch.float64))
    first, second = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 2.0, 1.0])
    shift = torch.tensor([1.0, -2.0, 0.5])
    # |m|^2 + sum (s1 - s2)^2
    assert distance(rows * first, rows * second + shift) == pytest.approx(5.25 + 9 + 0 + 4)


def test_two_gaussians_that_do_not_and_are_given_in_parts() -> None:
    images, originals = torch.randn(90, 4).double(), torch.randn(70, 4).double()
    images = images @ torch.randn(4, 4).double() + 100  # far from 0, where float32 would suffer
    means = images.mean(0) - originals.mean(0)
    first, second = np.cov(images.numpy().T), np.cov(originals.numpy().T)
    root = sqrtm(first @ second).real
    expected = float(means @ means) + np.trace(first + second - 2 * root)
    assert distance(images, originals, parts=7) == pytest.approx(expected, rel=1e-6)


def test_equal_sets_are_at_no_distance() -> None:
    rows = torch.randn(50, 5)
    assert distance(rows, rows.clone()) == pytest.approx(0, abs=1e-9)


def test_fewer_images_than_features_have_a_distance() -> None:
    value = distance(torch.randn(2, 16), torch.randn(3, 16))
    assert value is not None
    assert value > 0


@pytest.mark.parametrize(("images", "originals"), [(1, 5), (5, 1), (0, 5)])
def test_fewer_than_two_images_have_none(images: int, originals: int) -> None:
    assert distance(torch.randn(images, 2), torch.randn(originals, 2)) is None


def test_what_is_not_finite_has_none() -> None:
    rows = torch.randn(5, 2)
    assert distance(rows / 0, rows) is None
