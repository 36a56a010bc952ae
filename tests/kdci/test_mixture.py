import pytest
import torch
from torch import Tensor

from src.kdci import mixture
from src.kdci.mixture import log_mixture

B, N, K = 7, 6, 5


def plain(log_weights: Tensor, log_classes: Tensor) -> Tensor:
    return torch.logsumexp(log_weights[:, :, None] + log_classes, dim=1)


def with_gradients(logs: Tensor, leaves: list[Tensor], probe: Tensor) -> list[Tensor]:
    return [logs.detach(), *torch.autograd.grad((logs * probe).sum(), leaves)]


def drawn(weights: float, classes: float) -> list[Tensor]:
    """Logs of distributions, some of whose shares are of the size ``exp(-weights)``."""
    drawn = (weights * torch.randn(B, N), classes * torch.randn(N, K))
    return [tensor.double().log_softmax(1).requires_grad_() for tensor in drawn]


def assert_equal_the_equation(leaves: list[Tensor]) -> None:
    probe = torch.randn(B, K).double()
    found = with_gradients(log_mixture(*leaves), leaves, probe)
    expected = with_gradients(plain(*leaves), leaves, probe)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weights", [0.0, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("classes", [0.0, 1.0, 50.0, 1e4])
def test_values_and_gradients_are_those_of_the_equation(weights: float, classes: float) -> None:
    assert_equal_the_equation(drawn(weights, classes))


@pytest.mark.parametrize("part", [1, 3 * N * K])
def test_rows_that_underflow_are_summed_in_logs(
    part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mixture, "_PART", part)
    log_weights, log_classes = torch.full((B, N), -900.0), torch.full((N, K), -1e-3)
    log_weights[:, 0], log_classes[0, 1:] = 0, -700  # prototype 0 has all weight, and one class
    log_weights[2] = -2.0  # this row is not lost
    assert_equal_the_equation(
        [tensor.double().requires_grad_() for tensor in (log_weights, log_classes)]
    )


def test_float32_is_as_accurate_where_its_exponentials_are_zero() -> None:
    log_weights = torch.linspace(-200, -130, B * N).view(B, N)
    log_classes = torch.linspace(-100, -30, N * K).view(N, K)
    assert log_weights.exp().max() == 0
    leaves = [tensor.requires_grad_() for tensor in (log_weights, log_classes)]
    wide = [tensor.detach().double().requires_grad_() for tensor in leaves]
    probe = torch.randn(B, K)
    found = with_gradients(log_mixture(*leaves), leaves, probe)
    expected = with_gradients(plain(*wide), wide, probe.double())
    assert all(tensor.dtype == torch.float32 for tensor in found)
    for mine, true in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), true, rtol=1e-5, atol=1e-6)


def test_a_weight_of_zero_leaves_its_prototype_out() -> None:
    log_weights, log_classes = (tensor.detach() for tensor in drawn(1.0, 1.0))
    log_weights[:, 0] = -torch.inf
    expected = plain(log_weights[:, 1:], log_classes[1:])
    torch.testing.assert_close(log_mixture(log_weights, log_classes), expected)


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(log_mixture, drawn(1.0, 1.0))
