import pytest
import torch
from torch import Tensor, nn

from src.common.errors import UserError
from src.network.vgg import VGG


def last_grid(height: int) -> int:
    """Side of the map that the last block of VGG-11 returns."""
    sides: list[int] = []

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        sides.append(output.shape[-1])

    with torch.device("meta"):
        network = VGG(11, num_classes=10)
        network.block4.register_forward_hook(record)
        network(torch.empty(1, 3, height, height))
    return sides[0]


def test_keys_are_the_published_ones() -> None:
    with torch.device("meta"):
        names = set(VGG(11, num_classes=10).state_dict())
    convs = {"block0.0", "block1.0", "block2.0", "block2.3", "block3.3", "block4.0", "block4.3"}
    assert {f"{conv}.{tensor}" for conv in convs for tensor in ("weight", "bias")} <= names
    assert {"block0.1.running_mean", "block4.4.weight", "classifier.bias"} <= names


def test_fourth_block_is_pooled_at_height_64_only() -> None:
    assert {height: last_grid(height) for height in (32, 48, 64, 96)} == {
        32: 4,
        48: 6,
        64: 4,
        96: 12,
    }


def test_features_are_rectified() -> None:
    network = VGG(8, num_classes=10).eval()
    features = network.embed(torch.randn(2, 3, 32, 32))
    assert features.min() >= 0
    assert features.max() > 0


def test_initialisation() -> None:
    torch.manual_seed(0)
    network = VGG(8, num_classes=100)
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not network.classifier.bias.any()
    conv = network.get_parameter("block2.0.weight")
    assert conv.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)


def test_unknown_depth_is_refused() -> None:
    with pytest.raises(UserError, match=r"\[8, 11, 13\], but got 16"):
        VGG(16, num_classes=10)
