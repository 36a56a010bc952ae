"""Stage maps: which modules make them, and how they are heard."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from src.common.errors import UserError
from src.network.classifier import Classifier
from src.network.convnet import ConvNet
from src.network.imagenet import ImageNetMobileNetV2, ImageNetResNet
from src.network.outside import OutsideNetwork
from src.network.resnet import ResNet
from src.network.stages import heard
from src.network.timm_network import TimmNetwork
from src.network.torchvision_network import TorchvisionNetwork
from src.network.vgg import VGG
from src.network.wide_resnet import WideResNet

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "student").glob("*.yaml"))

# Network, size of the images, channels and sizes of its maps.
STAGES: list[tuple[Any, int, list[tuple[int, int]]]] = [
    (lambda: ConvNet([3, 5, 6], num_classes=2), 8, [(3, 8), (5, 4), (6, 2)]),
    (lambda: WideResNet(10, 2, num_classes=2), 32, [(32, 32), (64, 16), (128, 8)]),
    (lambda: ResNet(18, num_classes=2), 32, [(64, 32), (128, 16), (256, 8), (512, 4)]),
    (lambda: ResNet(50, num_classes=2), 32, [(256, 32), (512, 16), (1024, 8), (2048, 4)]),
    (lambda: VGG(8, num_classes=2), 32, [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]),
    (lambda: ImageNetResNet(18, num_classes=2), 64, [(64, 16), (128, 8), (256, 4), (512, 2)]),
    (lambda: ImageNetMobileNetV2(num_classes=2), 64, [(24, 16), (32, 8), (96, 4), (320, 2)]),
    (
        lambda: TorchvisionNetwork("resnet18", num_classes=2),
        64,
        [(64, 16), (128, 8), (256, 4), (512, 2)],
    ),
    (lambda: TorchvisionNetwork("mobilenet_v3_small", num_classes=2), 64, []),
]


def num_hooks(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def shapes(network: Classifier, size: int) -> list[tuple[int, ...]]:
    with heard(network, network.stage_names) as maps, torch.no_grad():
        network.embed(torch.empty(2, 3, size, size, device="meta"))
    return [tuple(each.shape) for each in maps]


@pytest.mark.parametrize(("make", "size", "expected"), STAGES)
def test_maps_of_every_family(make: Any, size: int, expected: list[tuple[int, int]]) -> None:
    with torch.device("meta"):
        network = make().eval()
    assert shapes(network, size) == [(2, width, side, side) for width, side in expected]


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_maps_that_timm_knows(name: str) -> None:
    pytest.importorskip("timm")
    with torch.device("meta"):
        network = TimmNetwork(name, num_classes=2).eval()
    assert [shape[2:] for shape in shapes(network, 64)] == [(side, side) for side in (16, 8, 4, 2)]


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224", "volo_d1_224"])
def test_tokens_and_maps_with_channels_last_are_no_stages(name: str) -> None:
    pytest.importorskip("timm")
    with torch.device("meta"):
        network = TimmNetwork(name, num_classes=2)
    assert network.stage_names == ()


def test_a_stage_that_puts_out_several_maps_is_refused() -> None:
    pytest.importorskip("timm")
    with torch.device("meta"):
        network = TimmNetwork("selecsls42", num_classes=2)
    with pytest.raises(UserError, match="puts out a list"):
        shapes(network, 32)


def test_a_network_that_says_nothing_has_no_stages() -> None:
    layer = nn.Linear(3, 2)
    assert OutsideNetwork(nn.Sequential(layer), layer, "theirs").stage_names == ()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_stages_are_modules_of_the_network(path: Path) -> None:
    with torch.device("meta"):
        network = instantiate(OmegaConf.load(path).network, num_classes=2)
    for name in network.stage_names:
        assert isinstance(network.get_submodule(name), nn.Module)


def test_it_hears_outputs_with_their_gradient_and_leaves_the_pass_as_it_is() -> None:
    network, images = ConvNet([3, 5], num_classes=2).eval(), torch.randn(2, 3, 8, 8)
    alone = network(images)
    with heard(network, network.stage_names) as maps:
        logits = network(images)
    assert torch.equal(logits, alone)
    assert torch.equal(maps[1].mean(dim=(2, 3)), network.embed(images))
    (gradient,) = torch.autograd.grad(maps[0].sum(), [network.stages[0].weight])
    assert gradient.abs().sum() > 0
    with torch.no_grad(), heard(network, network.stage_names) as maps:
        network(images)
    assert not any(each.requires_grad for each in maps)


def test_no_hook_and_no_map_outlives_the_block() -> None:
    network = ConvNet([3, 5], num_classes=2)
    with heard(network, network.stage_names) as maps, torch.no_grad():
        assert num_hooks(network) == 2
        network(torch.randn(2, 3, 8, 8))
    assert num_hooks(network) == 0
    alive = [weakref.ref(each) for each in maps]
    del maps
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_no_hook_outlives_a_pass_that_fails() -> None:
    network = ConvNet([3, 5], num_classes=2)
    with pytest.raises(RuntimeError), heard(network, network.stage_names):
        network(torch.randn(2, 1, 8, 8))
    assert num_hooks(network) == 0


def test_nothing_is_hooked_where_nothing_is_asked_for() -> None:
    network = ConvNet([3, 5], num_classes=2)
    with heard(network, ()) as maps:
        assert num_hooks(network) == 0
        network(torch.randn(2, 3, 8, 8))
    assert maps == []


def test_a_module_that_is_not_there_is_named_before_anything_is_hooked() -> None:
    network = ConvNet([3, 5], num_classes=2)
    with pytest.raises(AttributeError, match="nowhere"), heard(network, ("stages.2", "nowhere")):
        pass
    assert num_hooks(network) == 0
