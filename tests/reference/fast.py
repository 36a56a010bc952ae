"""Slow, literal FastDFKD: one round on explicit tensors."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from src.network.convnet import ConvNet
from tests.reference.adam import Adam
from tests.reference.adversarial import decision_disagreement
from tests.reference.distillation import softmax
from tests.reference.inversion import bn_layer
from tests.reference.sums import total

Moments = list[tuple[Tensor, Tensor]]


class Round(NamedTuple):
    """What a round leaves."""

    meta_gradient: list[Tensor]  # sum of the gradients before every inner step
    adapted: list[Tensor]  # the copy's parameters after the last inner step
    losses: list[Tensor]  # the weighted sum at every inner step
    pixels: list[Tensor]  # the images at every inner step
    moments: Moments  # mixed mean and variance of every BN input of the last forward pass


def forward(
    network: ConvNet, images: Tensor
) -> tuple[Tensor, list[tuple[nn.BatchNorm2d, Tensor]]]:
    """Logits, and what enters every BN layer."""
    heard = []
    for layer in network.stages:
        if isinstance(layer, nn.BatchNorm2d):
            heard.append((layer, images))
        images = layer(images)
    return network.fc(images.mean(dim=(2, 3))), heard


def mix(
    inputs: Tensor, momentum: float, previous: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every channel, mixed with those of the rounds before."""
    rows = inputs.detach().transpose(0, 1).flatten(1)
    mean = rows.mean(dim=1)
    var = ((rows - mean.unsqueeze(1)) ** 2).mean(dim=1)
    if previous is None:
        return mean, var
    return (
        (1 - momentum) * mean + momentum * previous[0],
        (1 - momentum) * var + momentum * previous[1],
    )


def meta_round(
    generator: nn.Module,
    teacher: ConvNet,
    student: nn.Module | None,
    latents: Tensor,
    labels: Tensor,
    *,
    steps: int,
    rates: tuple[float, float],
    weights: tuple[float, float, float],
    momentum: float,
    previous: Moments | None,
) -> Round:
    """Adapt a copy of ``generator`` and ``latents``; images are normalised to 2 u - 1.

    ``rates`` are of generator and latents, ``weights`` of class, BN and adversarial term.
    """
    names = [name for name, _ in generator.named_parameters()]
    values = [*(p.detach() for p in generator.parameters()), latents]
    inner = Adam([rates[0]] * len(names) + [rates[1]])
    meta = [torch.zeros_like(p) for p in generator.parameters()]
    losses, pixels = [], []
    for _ in range(steps):
        leaves = [value.clone().requires_grad_() for value in values]
        copied = dict(zip(names, leaves[:-1], strict=True))
        u = functional_call(generator, copied, (leaves[-1],))
        logits, heard = forward(teacher, 2 * u - 1)
        wanted = zip(logits, labels, strict=True)
        loss = weights[0] * total(-softmax(row)[y].log() for row, y in wanted) / len(labels)
        for i, (bn, inputs) in enumerate(heard):
            old = previous[i] if previous else None
            distance = bn_layer(inputs, bn.running_mean, bn.running_var, momentum, old)
            loss = loss + weights[1] * distance
        if student is not None:
            loss = loss + weights[2] * decision_disagreement(student(2 * u - 1), logits)
        gradients = torch.autograd.grad(loss, leaves)
        meta = [a + b for a, b in zip(meta, gradients[:-1], strict=True)]
        values = inner.step(values, gradients)
        losses.append(loss.detach())
        pixels.append(u.detach())
    moments = [
        mix(inputs, momentum, previous[i] if previous else None)
        for i, (_, inputs) in enumerate(heard)
    ]
    return Round(meta, values[:-1], losses, pixels, moments)
