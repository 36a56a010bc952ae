"""The inputs of chosen teacher layers, while a context lasts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from src.common.errors import UserError
from src.objective.inversion import BNStatistics, BNTarget
from src.objective.moments import channel_moments, spatial_means
from src.teacher.frozen import FrozenTeacher


class BNTap:
    """What entered every BatchNorm layer in the teacher's last forward pass, in module order.

    Attributes:
        target: Running statistics of these layers.
        inputs: One ``[B, C_l, H_l, W_l]`` a layer; a new forward pass starts a new list.
        named_inputs: The same for the layers that were asked for by name, if any.
    """

    def __init__(self, layers: list[nn.BatchNorm2d]) -> None:
        means = [_running(layer.running_mean) for layer in layers]
        variances = [_running(layer.running_var) for layer in layers]
        self.target = BNTarget.from_layers(means, variances)
        self.inputs: list[Tensor] = []
        self.named_inputs: list[Tensor] = []

    def forget(self) -> None:
        """Drop what the last forward pass has left."""
        self.inputs, self.named_inputs = [], []

    def statistics(self) -> BNStatistics:
        """Mean and biased variance of every channel of the last forward pass, float32."""
        moments = [channel_moments(layer_input) for layer_input in self.inputs]
        return BNStatistics.from_layers([m for m, _ in moments], [v for _, v in moments])

    def pooled(self) -> Tensor:
        """Spatial means of layer inputs, concatenated, ``[B, sum_l C_l]``, float32.

        Of the layers asked for by name, or else of all BatchNorm layers.
        """
        inputs = self.named_inputs or self.inputs
        return torch.cat([spatial_means(x) for x in inputs], dim=1)


def _running(statistic: Tensor | None) -> Tensor:
    if statistic is None:
        raise ValueError("Expected BatchNorm layers that track running statistics")
    return statistic


def _layer(teacher: FrozenTeacher, name: str) -> nn.Module:
    try:
        return teacher.network.get_submodule(name)
    except AttributeError as error:
        kind = type(teacher.network).__name__
        raise UserError(
            f"Expected a teacher with a layer '{name}', but {kind} has none"
        ) from error


@contextmanager
def tap(teacher: FrozenTeacher, names: Sequence[str] = ()) -> Iterator[BNTap]:
    """Listen to the teacher's BatchNorm layers inside the block, and never outside it.

    Open it once a round, around all inner steps: hooks cost where nobody reads them, and one
    that stays behind overwrites what another forward pass has left.

    Args:
        teacher: Whom to listen to.
        names: Layers of its network to listen to as well, for :meth:`BNTap.pooled`.

    Raises:
        UserError: If the network has no layer of such a name.
    """
    layers = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d)]
    named = [_layer(teacher, name) for name in names]
    heard = BNTap(layers)

    def start(_: nn.Module, __: Any) -> None:
        heard.forget()

    def hear(_: nn.Module, inputs: tuple[Tensor]) -> None:
        heard.inputs.append(inputs[0])

    def hear_named(_: nn.Module, inputs: tuple[Tensor]) -> None:
        heard.named_inputs.append(inputs[0])

    hooks = [teacher.register_forward_pre_hook(start)]
    hooks += [layer.register_forward_pre_hook(hear) for layer in layers]
    hooks += [layer.register_forward_pre_hook(hear_named) for layer in named]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
        heard.forget()
