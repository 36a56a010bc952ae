"""Which layers become what; ``tests/test_ddp.py`` compares what they compute on two ranks."""

from pathlib import Path

import pytest
from torch import nn

from src.common.sync_batch_norm import SyncBatchNorm2d, sync_batch_norm
from tests.toys import job


@pytest.fixture
def two_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.common.sync_batch_norm.world_size", lambda: 2)


@pytest.mark.usefixtures("two_ranks")
def test_layers_stay_the_objects_that_somebody_listens_to() -> None:
    layer, heard = nn.BatchNorm2d(2), list[nn.Module]()
    layer.register_forward_pre_hook(lambda module, _: heard.append(module))
    sync_batch_norm(nn.Sequential(nn.Sequential(layer), layer))
    assert type(layer) is SyncBatchNorm2d
    layer.eval()(nn.Parameter(layer.weight.new_ones(1, 2, 1, 1)))
    assert heard == [layer]


def test_one_process_has_its_own() -> None:
    layer = nn.BatchNorm2d(2)
    sync_batch_norm(layer)
    assert type(layer) is nn.BatchNorm2d


@pytest.mark.usefixtures("two_ranks")
@pytest.mark.parametrize("asked", [False, True])
def test_every_network_of_a_run_has_what_is_asked_for(tmp_path: Path, asked: bool) -> None:
    layer = nn.BatchNorm2d(2)
    job(tmp_path, sync_batch_norm=asked).to_device(nn.Sequential(layer))
    assert (type(layer) is SyncBatchNorm2d) == asked
