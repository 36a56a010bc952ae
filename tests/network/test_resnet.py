import pytest
import torch
from torch import Tensor, nn

from src.common.errors import UserError
from src.network.resnet import ResNet


def keys(depth: int) -> set[str]:
    with torch.device("meta"):
        return set(ResNet(depth, num_classes=10).state_dict())


def test_basic_keys_are_the_published_ones() -> None:
    names = keys(18)
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.conv1.weight",
        "layer1.1.bn2.num_batches_tracked",
        "layer2.0.shortcut.0.weight",
        "layer2.0.shortcut.1.running_mean",
        "layer4.1.conv2.weight",
        "linear.weight",
        "linear.bias",
    } <= names
    assert not any(name.startswith("layer1.0.shortcut") for name in names)


def test_bottleneck_projects_in_every_stage() -> None:
    names = keys(50)
    assert {f"layer{s}.0.shortcut.0.weight" for s in (1, 2, 3, 4)} <= names
    assert "layer3.5.conv3.weight" in names


@pytest.mark.parametrize("depth", [18, 50])
def test_resolution_falls_in_the_last_three_stages_only(depth: int) -> None:
    sizes: list[int] = []

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sizes.append(output.shape[-1])

    with torch.device("meta"):
        network = ResNet(depth, num_classes=10)
        for layer in (network.conv1, network.layer1, network.layer2, network.layer3):
            layer.register_forward_hook(record)
        network.layer4.register_forward_hook(record)
        network(torch.empty(1, 3, 64, 64))
    assert sizes == [64, 64, 32, 16, 8]


def test_bottleneck_has_its_stride_in_the_3x3_convolution() -> None:
    with torch.device("meta"):
        first = ResNet(50, num_classes=10).get_submodule("layer2.0")
    assert first.get_submodule("conv1").stride == (1, 1)
    assert first.get_submodule("conv2").stride == (2, 2)


def test_silent_branch_leaves_the_rectified_input() -> None:
    block = ResNet(18, num_classes=10).get_submodule("layer1.0").eval()
    last_bn = block.get_submodule("bn2")
    assert isinstance(last_bn, nn.BatchNorm2d)
    nn.init.zeros_(last_bn.weight)
    x = torch.randn(2, 64, 4, 4)
    assert torch.equal(block(x), x.relu())


def test_unknown_depth_is_refused() -> None:
    with pytest.raises(UserError, match=r"\[18, 34, 50\], but got 20"):
        ResNet(20, num_classes=10)
