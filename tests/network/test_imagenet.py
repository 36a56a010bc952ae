import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from src.common.errors import UserError
from src.network.imagenet import ImageNetMobileNetV2, ImageNetResNet


def logits_match(ours: nn.Module, theirs: nn.Module, images: Tensor) -> bool:
    """Whether a strict load of torchvision's weights gives torchvision's logits."""
    ours.load_state_dict(theirs.state_dict())
    expected = theirs.eval()(images)
    return torch.allclose(ours.eval()(images), expected, atol=1e-5)


def test_resnet_equals_torchvision() -> None:
    theirs = models.resnet18(weights=None, num_classes=5)
    ours = ImageNetResNet(18, num_classes=5)
    assert logits_match(ours, theirs, torch.randn(2, 3, 64, 64))


def test_mobilenet_equals_torchvision() -> None:
    theirs = models.mobilenet_v2(weights=None, num_classes=5)
    ours = ImageNetMobileNetV2(num_classes=5)
    assert logits_match(ours, theirs, torch.randn(2, 3, 64, 64))


def test_mobilenet_drops_features_in_training_only() -> None:
    network = ImageNetMobileNetV2(num_classes=5)
    dropout = network.classifier[0]
    assert isinstance(dropout, nn.Dropout)
    dropout.p = 1.0
    images = torch.randn(2, 3, 32, 32)
    assert not network.train().embed(images).any()
    assert network.eval().embed(images).any()


def test_resnet50_has_torchvisions_keys() -> None:
    with torch.device("meta"):
        ours, theirs = ImageNetResNet(50, num_classes=5), models.resnet50(num_classes=5)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_unknown_depth_is_refused() -> None:
    with pytest.raises(UserError, match=r"\[18, 34, 50\], but got 20"):
        ImageNetResNet(20, num_classes=10)
