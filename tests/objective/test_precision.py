import pytest
import torch

from src.objective.precision import at_least_float32


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
