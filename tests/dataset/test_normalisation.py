import pytest
import torch

from src.dataset.contract import ImageSpec
from src.dataset.normalisation import Normalisation


@pytest.fixture
def normalisation(tiny_spec: ImageSpec) -> Normalisation:
    return Normalisation.of(tiny_spec)


def test_known_pixels(normalisation: Normalisation) -> None:
    pixels = torch.tensor([0.5, 0.65, 0.0]).view(1, 3, 1, 1)
    expected = torch.tensor([0.0, 1.0, -1.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(normalisation(pixels), expected)


def test_bytes_are_pixels_times_255(normalisation: Normalisation) -> None:
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    result = normalisation.from_uint8(images)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, normalisation(images / 255))


def test_the_inverse_undoes_it(normalisation: Normalisation) -> None:
    pixels = torch.rand(4, 3, 5, 6)
    torch.testing.assert_close(normalisation.inverse(normalisation(pixels)), pixels)


def test_the_valid_range_is_that_of_black_and_white(normalisation: Normalisation) -> None:
    low, high = normalisation.valid_range()
    torch.testing.assert_close(low, normalisation(torch.zeros(1, 3, 1, 1)))
    torch.testing.assert_close(high, normalisation(torch.ones(1, 3, 1, 1)))


def test_gradients_reach_the_pixels(normalisation: Normalisation) -> None:
    pixels = torch.rand(2, 3, 4, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(normalisation(pixels).sum(), pixels)
    torch.testing.assert_close(gradient, (1 / normalisation.std).expand_as(pixels))


def test_statistics_are_configuration_and_no_state(normalisation: Normalisation) -> None:
    assert normalisation.state_dict() == {}
    assert normalisation.double().mean.dtype == torch.float64  # but they follow the module
