from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from src.pipeline import run


def test_float32_is_float32_in_convolutions_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: Any = SimpleNamespace(
        trainer=SimpleNamespace(accelerator="cpu", devices=1, precision="32-true")
    )
    monkeypatch.setattr(run, "identify", lambda *_: SimpleNamespace(run="run"))
    monkeypatch.setattr(run, "plain", lambda _: {})
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as torch begins
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    with run._begun(config, tmp_path / "run", None):
        assert torch.backends.cudnn.conv.fp32_precision != "tf32"
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
