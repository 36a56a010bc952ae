"""Sizes of the published networks: a checkpoint loads strictly only if these hold."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from src.network.classifier import Classifier
from src.network.imagenet import ImageNetMobileNetV2, ImageNetResNet
from src.network.resnet import ResNet
from src.network.vgg import VGG
from src.network.wide_resnet import WideResNet

Build = Callable[..., Classifier]

# Build, feature width, BN layers, state-dict keys, parameters by number of classes.
ZOO: list[tuple[Build, int, int, int, dict[int, int]]] = [
    (partial(ResNet, 18), 512, 20, 122, {10: 11_173_962, 100: 11_220_132, 200: 11_271_432}),
    (partial(ResNet, 34), 512, 36, 218, {10: 21_282_122, 100: 21_328_292, 200: 21_379_592}),
    (partial(ResNet, 50), 2048, 53, 320, {10: 23_520_842, 100: 23_705_252, 200: 23_910_152}),
    (partial(WideResNet, 16, 1), 64, 13, 82, {10: 175_066, 100: 180_916, 200: 187_416}),
    (partial(WideResNet, 16, 2), 128, 13, 83, {10: 691_674, 100: 703_284, 200: 716_184}),
    (partial(WideResNet, 40, 1), 64, 37, 226, {10: 563_930, 100: 569_780, 200: 576_280}),
    (partial(WideResNet, 40, 2), 128, 37, 227, {10: 2_243_546, 100: 2_255_156, 200: 2_268_056}),
    (partial(VGG, 8), 512, 5, 37, {10: 3_918_858}),
    (partial(VGG, 11), 512, 8, 58, {10: 9_231_114, 100: 9_277_284}),
    (partial(VGG, 13), 512, 10, 72, {10: 9_416_010}),
    (partial(ImageNetResNet, 18), 512, 20, 122, {1000: 11_689_512}),
    (partial(ImageNetResNet, 50), 2048, 53, 320, {1000: 25_557_032}),
    (ImageNetMobileNetV2, 1280, 52, 314, {1000: 3_504_872}),
]


@pytest.mark.parametrize(("build", "feature_dim", "num_bn", "num_keys", "sizes"), ZOO)
def test_counts(
    build: Build, feature_dim: int, num_bn: int, num_keys: int, sizes: dict[int, int]
) -> None:
    for num_classes, num_parameters in sizes.items():
        with torch.device("meta"):
            network = build(num_classes=num_classes)
        assert sum(p.numel() for p in network.parameters()) == num_parameters
        assert len(network.state_dict()) == num_keys
        assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == num_bn
        assert network.feature_dim == feature_dim
        assert network.head.out_features == num_classes
