import pytest
import torch
from torch import Tensor

from src.objective.moments import channel_moments, spatial_means

FORMATS = [torch.contiguous_format, torch.channels_last]


def loss(mean: Tensor, var: Tensor) -> Tensor:
    return (mean.sin() + 3 * var.log()).sum()


def reference(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and gradient of the loss of both, in float64, from the definition."""
    exact = maps.detach().double().contiguous().requires_grad_()
    rows = exact.transpose(0, 1).flatten(1)
    mean = rows.mean(dim=1)
    var = (rows - mean.unsqueeze(1)).square().mean(dim=1)
    (gradient,) = torch.autograd.grad(loss(mean, var), exact)
    return mean, var, gradient


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(8, 5, 6, 4), (3, 16, 1, 1), (2, 1, 5, 5), (64, 4, 32, 32)])
@pytest.mark.parametrize("centre", [0.0, 30.0])
def test_moments_and_gradient_are_those_of_float64(
    memory_format: torch.memory_format, shape: tuple[int, ...], centre: float
) -> None:
    scale = torch.linspace(0.5, 2, shape[1]).view(1, -1, 1, 1)
    maps = (centre + scale * torch.randn(shape)).to(memory_format=memory_format).requires_grad_()
    expected_mean, expected_var, expected_gradient = reference(maps)
    mean, var = channel_moments(maps)
    (gradient,) = torch.autograd.grad(loss(mean, var), maps)
    torch.testing.assert_close(mean.double(), expected_mean, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(var.double(), expected_var, rtol=5e-5, atol=0)
    assert gradient.is_contiguous(memory_format=memory_format)
    largest = float(expected_gradient.abs().max())
    torch.testing.assert_close(
        gradient.double(), expected_gradient, rtol=1e-3, atol=1e-4 * largest
    )


@pytest.mark.parametrize("memory_format", FORMATS)
def test_bfloat16_is_counted_in_float32(memory_format: torch.memory_format) -> None:
    maps = (1 + torch.randn(8, 5, 6, 4)).bfloat16().to(memory_format=memory_format)
    maps.requires_grad_()
    expected_mean, expected_var, expected_gradient = reference(maps)
    mean, var = channel_moments(maps)
    (gradient,) = torch.autograd.grad(loss(mean, var), maps)
    assert mean.dtype == var.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var.double(), expected_var, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=0.01, atol=1e-6)


@pytest.mark.parametrize("used", [0, 1])
def test_one_moment_alone_has_its_own_gradient(used: int) -> None:
    maps = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: channel_moments(x)[used], maps)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("shape", [(8, 5, 6, 4), (3, 16, 1, 1), (2, 1, 5, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_spatial_means_and_their_gradient(
    memory_format: torch.memory_format, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    maps = torch.randn(shape).to(dtype).to(memory_format=memory_format).requires_grad_()
    means = spatial_means(maps)
    (gradient,) = torch.autograd.grad(means.square().sum(), maps)
    exact = maps.detach().double().requires_grad_()
    expected = exact.flatten(2).mean(dim=2)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), exact)
    assert means.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(means.double(), expected, rtol=1e-5, atol=1e-6)
    coarse = (
        {"rtol": 0.01, "atol": 1e-6} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    )
    torch.testing.assert_close(gradient.double(), expected_gradient, **coarse)
