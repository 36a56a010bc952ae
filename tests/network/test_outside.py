"""Networks of timm and torchvision as teachers and students."""

import sys
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.googlenet import GoogLeNetOutputs

from src.common.errors import MissingExtraError, UserError
from src.network.outside import OutsideNetwork
from src.network.timm_network import TimmNetwork
from src.network.torchvision_network import TorchvisionNetwork

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Toy(nn.Module):
    """Two linear layers, the second of which is the last."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(12, 5), nn.Linear(5, 3), scale

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * self.last(torch.relu(self.first(images.flatten(1))))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_features_and_logits_are_the_network_s_own(name: str) -> None:
    network = TorchvisionNetwork(name, num_classes=3).eval()
    features = network.embed(IMAGES)
    assert features.shape == (2, network.feature_dim)
    assert torch.equal(network.head(features), network(IMAGES))
    assert torch.equal(network(IMAGES), network.module(IMAGES))


def test_the_last_layer_is_float32_under_autocast() -> None:
    network = TorchvisionNetwork("mobilenet_v3_small", num_classes=3).eval()
    with torch.autocast("cpu", torch.bfloat16):
        features, logits = network.embed(IMAGES), network(IMAGES)
    assert features.dtype == torch.bfloat16
    assert torch.equal(logits, network.head(features.float()))


def test_a_network_whose_logits_a_convolution_makes_is_refused() -> None:
    with pytest.raises(UserError, match="'squeezenet1_0' to end in one linear layer"):
        TorchvisionNetwork("squeezenet1_0", num_classes=3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", None),
        ("mobilenetv3_small_050", None),
        ("test_vit", {"img_size": 64}),
    ],
)
def test_timm_s_networks_give_what_timm_gives(name: str, options: Any) -> None:
    timm = pytest.importorskip("timm")
    network = TimmNetwork(name, num_classes=3, options=options).eval()
    logits = network(IMAGES)
    features = network.embed(IMAGES)
    assert torch.equal(network.head(features), logits)
    same = timm.create_model(name, num_classes=3, **options or {}).eval()
    same.load_state_dict(network.module.state_dict())
    torch.testing.assert_close(same(IMAGES), logits)
    before = same.forward_head(same.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(before, features)


def test_gradients_reach_images_and_every_parameter() -> None:
    network = OutsideNetwork(module := Toy(), module.last, "toy")
    images = torch.randn(2, 3, 2, 2, requires_grad=True)
    network.head(network.embed(images)).sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert module.last._forward_pre_hooks == {}


class Auxiliary(Toy):
    """In training returns the logits of a second head too, as torchvision's googlenet does."""

    def forward(self, images: torch.Tensor) -> Any:
        logits = super().forward(images)
        return GoogLeNetOutputs(logits, None, logits + 1) if self.training else logits


def test_logits_of_auxiliary_heads_are_left_out() -> None:
    network = OutsideNetwork(module := Auxiliary(), module.last, "toy").train()
    images = torch.randn(2, 3, 2, 2)
    expected = network.head(network.embed(images))
    torch.testing.assert_close(network(images), expected)
    torch.testing.assert_close(network.eval()(images), expected)


def test_a_layer_after_the_last_linear_one_is_refused() -> None:
    network = OutsideNetwork(module := Toy(scale=2.0), module.last, "toy")
    with pytest.raises(UserError, match="'toy' to be what its last layer makes"):
        network.embed(torch.randn(2, 3, 2, 2))


def test_a_layer_that_is_not_the_last_is_refused() -> None:
    network = OutsideNetwork(module := Toy(), module.first, "toy")
    with pytest.raises(UserError, match=r"'toy' to make logits \[B, K\]"):
        network.embed(torch.randn(2, 3, 2, 2))


@pytest.mark.parametrize("head", [None, nn.Linear(2, 2), nn.Conv2d(1, 1, 1)])
def test_a_head_of_another_kind_or_network_is_refused(head: Any) -> None:
    with pytest.raises(UserError, match="'toy' to end in one linear layer"):
        OutsideNetwork(Toy(), head, "toy")


@pytest.mark.parametrize("kind", [TimmNetwork, TorchvisionNetwork])
def test_an_unknown_name_is_refused_with_the_nearest(kind: Any) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        kind("resnet17", num_classes=3)
    with pytest.raises(UserError, match="Cannot build 'resnet18'"):
        kind("resnet18", num_classes=3, options={"unknown": 1})


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '.\[timm\]'"):
        TimmNetwork("resnet18", num_classes=3)
