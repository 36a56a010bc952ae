import pytest
import torch
from torch import nn

from src.common.freezing import frozen, mode


@pytest.fixture
def network() -> nn.Sequential:
    """Partly frozen and partly in eval mode already."""
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[0].weight.requires_grad_(False)
    module[1].eval()
    return module


def flags(module: nn.Module) -> list[bool]:
    return [p.requires_grad for p in module.parameters()]


def modes(module: nn.Module) -> list[bool]:
    return [child.training for child in module.modules()]


def test_frozen_weights_get_no_gradient_but_inputs_do(network: nn.Sequential) -> None:
    inputs = torch.randn(5, 3, requires_grad=True)
    with frozen(network):
        network(inputs).sum().backward()
    assert inputs.grad is not None
    assert inputs.grad.any()
    assert all(p.grad is None for p in network.parameters())


def test_frozen_puts_every_flag_back(network: nn.Sequential) -> None:
    before = flags(network)
    assert len(set(before)) == 2
    with frozen(network, nn.Linear(2, 2)):
        assert not any(flags(network))
    assert flags(network) == before


@pytest.mark.parametrize("training", [True, False])
def test_mode_puts_every_module_back(network: nn.Sequential, training: bool) -> None:
    before = modes(network)
    assert len(set(before)) == 2
    with mode(network, training):
        assert set(modes(network)) == {training}
    assert modes(network) == before


def test_both_put_things_back_after_a_failure(network: nn.Sequential) -> None:
    before = flags(network), modes(network)
    with pytest.raises(KeyError), frozen(network), mode(network, True):
        raise KeyError
    assert (flags(network), modes(network)) == before


def test_a_graph_made_while_frozen_can_be_used_after(network: nn.Sequential) -> None:
    inputs = torch.randn(5, 3, requires_grad=True)
    with frozen(network):
        loss = network(inputs).sum()
    loss.backward()
    assert all(p.grad is None for p in network.parameters())
