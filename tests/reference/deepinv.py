"""Slow, literal DeepInversion: one iteration's loss, and Adam by its definition."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from src.network.convnet import ConvNet
from tests.reference.adversarial import reversed_js
from tests.reference.distillation import softmax
from tests.reference.inversion import (
    bn_layer,
    image_norm,
    total_variation_l1,
    total_variation_l2,
)
from tests.reference.sums import total


def layer_by_layer(network: ConvNet, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what enters every BN layer, of a network in eval mode."""
    entered, maps = [], images
    for layer in network.stages:
        if isinstance(layer, nn.BatchNorm2d):
            entered.append(maps)
        maps = layer(maps)
    return network.fc(maps.mean(dim=(2, 3))), entered


def bn_distance(network: ConvNet, entered: Sequence[Tensor], first: float = 1.0) -> Tensor:
    """``r_l`` summed over the layers, the first one weighted."""
    layers = [layer for layer in network.stages if isinstance(layer, nn.BatchNorm2d)]
    terms = []
    for position, (layer, inputs) in enumerate(zip(layers, entered, strict=True)):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        distance = bn_layer(inputs, layer.running_mean, layer.running_var)
        terms.append(distance * (first if position == 0 else 1.0))
    return total(terms)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``-log p`` at the label."""
    rows = zip(logits, labels.tolist(), strict=True)
    return total(-softmax(row)[label].log() for row, label in rows) / len(logits)


def pool_2x2(images: Tensor) -> Tensor:
    """Mean of every 2x2 block."""
    rows = (images[:, :, 0::2] + images[:, :, 1::2]) / 2
    return (rows[..., 0::2] + rows[..., 1::2]) / 2


def jitter(images: Tensor, shift: tuple[int, int], mirrored: bool) -> Tensor:
    """Roll the whole batch by (down, right) pixels, then mirror it."""
    rolled = images.roll(shift, (2, 3))
    return rolled.flip(3) if mirrored else rolled


def distillation_baseline(
    pixels: Tensor, view: Tensor, labels: Tensor, teacher: ConvNet, student: ConvNet
) -> Tensor:
    """``10 BN + CE - JS' + 0.001 TV_1``, TV of the pixels themselves."""
    logits, entered = layer_by_layer(teacher, view)
    disagreement = reversed_js(student(view), logits)
    inversion = 10 * bn_distance(teacher, entered) + cross_entropy(logits, labels)
    return inversion - disagreement + 0.001 * total_variation_l1(pixels)


def authors_script(
    view: Tensor,
    labels: Tensor,
    teacher: ConvNet,
    student: ConvNet,
    weights: Mapping[str, float],
    *,
    per_sample: bool,
    first: float,
) -> Tensor:
    """``CE + a_bn BN + a_tv TV_2 + a_l2 L_2 + adi (1 - clamp(JS', 0, 1))``, all of the view."""
    logits, entered = layer_by_layer(teacher, view)
    disagreement = reversed_js(student(view), logits)
    return (
        cross_entropy(logits, labels)
        + weights["bn"] * bn_distance(teacher, entered, first)
        + weights["tv"] * total_variation_l2(view)
        + weights["l2"] * image_norm(view, per_sample)
        + weights["adi"] * (1 - disagreement.clamp(0, 1))
    )


class Adam:
    """Adam of one tensor, by its definition."""

    def __init__(self, rate: float, betas: tuple[float, float]) -> None:
        self.rate, self.betas = rate, betas
        self.first, self.second, self.count = torch.zeros(()), torch.zeros(()), 0

    def step(self, tensor: Tensor, gradient: Tensor) -> Tensor:
        """The tensor after one step."""
        b1, b2 = self.betas
        self.count += 1
        self.first = b1 * self.first + (1 - b1) * gradient
        self.second = b2 * self.second + (1 - b2) * gradient**2
        mean = self.first / (1 - b1**self.count)
        spread = (self.second / (1 - b2**self.count)) ** 0.5
        return tensor - self.rate * mean / (spread + 1e-8)
