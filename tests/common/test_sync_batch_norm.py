"""Which layers become what; ``tests/test_ddp.py`` compares what they compute on two ranks."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from src.common.errors import UserError
from src.common.sync_batch_norm import SyncBatchNorm2d, require_syncable, sync_batch_norm
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
def test_classifiers_that_are_trained_have_what_is_asked_for(tmp_path: Path, asked: bool) -> None:
    made = job(tmp_path, sync_batch_norm=asked)
    made.dataset = SimpleNamespace(class_names=["a", "b"])  # type: ignore[assignment]
    network = made.network({"_target_": "src.network.convnet.ConvNet", "widths": [4, 8]})
    kinds = {type(layer) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)}
    assert kinds == {SyncBatchNorm2d if asked else nn.BatchNorm2d}
    generator = nn.Sequential(nn.BatchNorm2d(2))
    made.to_device(generator)
    assert type(generator[0]) is nn.BatchNorm2d  # another network on each rank, of some methods


@pytest.mark.usefixtures("two_ranks")
@pytest.mark.parametrize("momentum", [None, 0.3])
def test_statistics_are_remembered_over_steps_as_torch_remembers_them(
    momentum: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sums over ranks are those of this one: what is compared is what becomes of them.
    monkeypatch.setattr("src.common.sync_batch_norm.dist.all_reduce", lambda value: None)
    ours, plain = (nn.BatchNorm2d(3, momentum=momentum) for _ in range(2))
    sync_batch_norm(ours)
    for step in range(5):
        images = (step + 1) * torch.randn(4, 3, 5, 2) + 10 * step
        torch.testing.assert_close(ours(images), plain(images))
        for name, wanted in plain.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], wanted)
    assert ours.num_batches_tracked == 5
    torch.testing.assert_close(ours.eval()(images), plain.eval()(images))
    assert ours.num_batches_tracked == 5


def test_layers_that_do_more_are_refused() -> None:
    odd = type("BatchNormAct2d", (nn.BatchNorm2d,), {})
    with pytest.raises(UserError, match="but Sequential has a BatchNormAct2d"):
        require_syncable(nn.Sequential(odd(2)))


@pytest.mark.usefixtures("two_ranks")
def test_what_is_remembered_keeps_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.common.sync_batch_norm.dist.all_reduce", lambda value: None)
    layer = nn.BatchNorm2d(3)
    sync_batch_norm(layer)
    layer(torch.randn(4, 3, 5, 2, requires_grad=True))
    assert not any(buffer.requires_grad for buffer in layer.buffers())


@pytest.mark.usefixtures("two_ranks")
def test_statistics_of_narrow_maps_are_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.common.sync_batch_norm.dist.all_reduce", lambda value: None)
    layer, maps = nn.BatchNorm2d(3, momentum=1.0), (30 + torch.randn(8, 3, 9, 9)).bfloat16()
    sync_batch_norm(layer)
    assert layer(maps).dtype == torch.bfloat16
    var, mean = torch.var_mean(maps.double(), (0, 2, 3))
    torch.testing.assert_close(layer.running_mean, mean.float())
    torch.testing.assert_close(layer.running_var, var.float())
