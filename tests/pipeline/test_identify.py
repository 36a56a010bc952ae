from pathlib import Path
from typing import Any

import pytest

from src import naming
from src.config.check import check
from src.pipeline import identify
from tests.compose import plain


def test_what_was_remembered_of_another_device_is_found_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a driver has come or gone since: the run would go on in another one's folder."""
    known = [
        {"on": ["cuda", "32-true"], "folder": "of the GPU"},
        {"on": ["cpu", "32-true"], "folder": "of the CPU"},
    ]
    memory = tmp_path / "memory.json"
    memory.touch()

    def remember(path: Path, *_: Any) -> Any:
        assert path == memory
        assert memory.exists() == (len(known) == 2)
        return known.pop(0)

    monkeypatch.setattr(identify, "remember", remember)
    config = check(plain("trainer.accelerator=cpu"))
    found = identify.find(config, naming.RunName("distill", {}), memory)
    assert found["folder"] == "of the CPU"
    assert not known
