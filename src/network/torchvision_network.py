"""Classifiers of torchvision, by name."""

from typing import Any

from torch import nn
from torchvision import models

from src.common.errors import UserError, nearest
from src.network.outside import OutsideNetwork


class TorchvisionNetwork(OutsideNetwork):
    """A network of ``torchvision.models``, untrained; see its ``list_models``.

    Args:
        name: E.g. ``efficientnet_b0``.
        num_classes: K.
        options: Further arguments of its constructor.

    Raises:
        UserError: If there is no such classifier, or it has no linear last layer.
    """

    def __init__(
        self, name: str, *, num_classes: int, options: dict[str, Any] | None = None
    ) -> None:
        known = models.list_models(module=models)
        if name not in known:
            raise UserError(f"Unknown network of torchvision '{name}'{nearest(name, known)}")
        try:
            network = models.get_model(
                name, weights=None, num_classes=num_classes, **options or {}
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"Cannot build '{name}' of torchvision ({error})") from error
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        stages = [f"layer{i}" for i in range(1, 5)] if isinstance(network, models.ResNet) else []
        super().__init__(network, layers[-1] if layers else None, name, stages)
