import pytest
import torch

from src.objective.precision import at_least_float32, backward


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_narrow_floats_widen_and_wide_ones_stay(given: torch.dtype, kept: torch.dtype) -> None:
    tensor = torch.tensor([0.5, -2.0], dtype=given)
    widened = at_least_float32(tensor)
    assert widened.dtype == kept
    assert widened.tolist() == [0.5, -2.0]


@pytest.mark.parametrize("given", [True, False])
def test_gradients_of_float32_parts_are_float32_under_autocast(given: bool) -> None:
    layer, rows = torch.nn.Linear(5, 3), torch.randn(7, 5, requires_grad=True)
    expected = torch.autograd.grad(layer(rows).square().sum(), [layer.weight, rows])
    with torch.autocast("cpu", torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            loss = layer(rows).square().sum()
        backward(loss, [layer.weight] if given else None)
    assert layer.weight.grad is not None
    assert torch.equal(layer.weight.grad, expected[0])
    assert rows.grad is None if given else torch.equal(rows.grad, expected[1])  # type: ignore[arg-type]
