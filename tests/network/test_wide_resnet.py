import math

import pytest
import torch
from torch import nn

from src.common.errors import UserError
from src.network.wide_resnet import WideResNet


def test_keys_are_the_published_ones() -> None:
    names = set(WideResNet(16, 2, num_classes=10).state_dict())
    assert {
        "conv1.weight",
        "block1.layer.0.bn1.running_mean",
        "block1.layer.0.convShortcut.weight",
        "block2.layer.1.conv2.weight",
        "block3.layer.0.bn2.num_batches_tracked",
        "bn1.weight",
        "fc.weight",
        "fc.bias",
    } <= names


def test_width_one_has_no_projection_in_the_first_group() -> None:
    names = [n for n in WideResNet(16, 1, num_classes=10).state_dict() if "convShortcut" in n]
    assert names == ["block2.layer.0.convShortcut.weight", "block3.layer.0.convShortcut.weight"]


def test_projection_reads_the_activated_input_and_the_identity_the_raw_one() -> None:
    network = WideResNet(16, 1, num_classes=10).eval()
    x = torch.randn(2, 16, 8, 8)
    for name, expected in (("block1.layer.0", x), ("block2.layer.0", torch.zeros(2, 32, 4, 4))):
        block = network.get_submodule(name)
        first_bn = block.get_submodule("bn1")
        assert isinstance(first_bn, nn.BatchNorm2d)
        nn.init.zeros_(first_bn.weight)
        nn.init.constant_(first_bn.bias, -1.0)
        assert torch.equal(block(x), expected)


def test_initialisation() -> None:
    torch.manual_seed(0)
    network = WideResNet(16, 2, num_classes=10)
    weight = network.get_parameter("block3.layer.0.conv1.weight")
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)
    assert not network.fc.bias.any()
    assert network.fc.weight.abs().max() <= 1 / math.sqrt(128)


@pytest.mark.parametrize("depth", [4, 18, -2])
def test_impossible_depth_is_refused(depth: int) -> None:
    with pytest.raises(UserError, match=f"6n \\+ 4 .* got {depth}"):
        WideResNet(depth, 1, num_classes=10)


def test_width_below_one_is_refused() -> None:
    with pytest.raises(UserError, match="`width` to be at least 1, but got 0"):
        WideResNet(16, 0, num_classes=10)
