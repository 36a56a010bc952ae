from collections.abc import Iterator

import pytest
import torch
from torch import Tensor


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs everything in float64, so that a slow reference can be met to the last digits."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
