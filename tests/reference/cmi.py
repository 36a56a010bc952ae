"""Slow, literal CMI: one iteration's loss."""

from collections.abc import Callable

import torch
from torch import Tensor

from src.network.convnet import ConvNet
from tests.reference.adversarial import decision_disagreement
from tests.reference.contrastive import contrastive
from tests.reference.deepinv import bn_distance, cross_entropy, layer_by_layer

View = Callable[[Tensor], Tensor]


def features(entered: list[Tensor]) -> Tensor:
    """Spatial means of the layers' inputs, side by side."""
    return torch.cat([maps.flatten(2).sum(2) / maps[0, 0].numel() for maps in entered], dim=1)


def project(rows: Tensor, head: list[Tensor]) -> Tensor:
    """Linear, ReLU, Linear, unit length."""
    hidden = (rows @ head[0].t() + head[1]).clamp_min(0)
    projected = hidden @ head[2].t() + head[3]
    return projected / (projected**2).sum(dim=1, keepdim=True) ** 0.5


def loss(
    images: Tensor,
    global_view: View,
    local_view: View,
    labels: Tensor,
    teacher: ConvNet,
    student: ConvNet,
    head: list[Tensor],
    bank: Tensor,
) -> tuple[Tensor, Tensor]:
    """``BN + CE + 0.5 ADV + 0.8 CR`` at tau 0.1, and the features to remember."""
    seen = global_view(images)
    logits, entered = layer_by_layer(teacher, seen)
    global_features = features(entered)
    local_features = features(layer_by_layer(teacher, local_view(images))[1])
    width = bank.shape[1] // 2
    anchors = project(torch.cat([local_features, bank[:, :width]]), head)
    candidates = project(torch.cat([global_features, bank[:, width:]]), head).detach()
    value = (
        bn_distance(teacher, entered)
        + cross_entropy(logits, labels)
        + 0.5 * decision_disagreement(student(seen), logits)
        + 0.8 * contrastive(anchors, candidates, len(images), 0.1)
    )
    return value, torch.cat([local_features, global_features], dim=1)
