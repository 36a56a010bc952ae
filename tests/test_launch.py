from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src import launch, naming
from src.common.errors import UserError
from tests.compose import composed


@pytest.fixture
def in_job() -> Iterator[DictConfig]:
    """What Hydra sets up before it calls the job."""
    config = composed()
    HydraConfig.instance().set_config(config)
    yield config
    HydraConfig.instance().cfg = None


def test_no_process_is_started_for_a_gpu_that_is_not_there(
    in_job: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr(launch, "start_ranks", forbidden)
    outputs = f"paths.outputs={tmp_path / 'outputs'}"
    config = composed("trainer=ddp", "trainer.devices=99", outputs)
    with pytest.raises(UserError, match="99 GPUs"):
        launch.run_single(config, [])
    assert list(tmp_path.iterdir()) == []


def test_every_option_named_in_the_defaults_exists() -> None:
    config: Any = composed()
    choices = {k: v for k, v in config.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    assert choices["dataset"] == "digits"
    assert choices["dataset@pool"] == "photo_patches"
    for group, option in choices.items():
        if group not in ("recipe", "experiments") and option is not None:
            file = Path(naming.CONF, group.split("@")[0].strip("/"), f"{option}.yaml")
            assert file.is_file(), file
