"""The inputs of chosen teacher layers, while a context lasts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from src.common.errors import UserError
from src.objective.inversion import BNStatistics, BNTarget
from src.objective.moments import channel_moments, spatial_means
from src.teacher.frozen import FrozenTeacher


class _Heard(Exception):  # noqa: N818 - ends a pass, and is no error
    """All layers that are listened to have been passed."""


class BNTap:
    """What entered every BatchNorm layer in the teacher's last forward pass, in module order.

    Attributes:
        target: Running statistics of these layers.
        inputs: One ``[B, C_l, H_l, W_l]`` a layer; a new forward pass starts a new list.
        named_inputs: The same for the layers that were asked for by name, if any.
    """

    def __init__(self, layers: list[nn.BatchNorm2d], has_names: bool = False) -> None:
        means = [_running(layer.running_mean) for layer in layers]
        variances = [_running(layer.running_var) for layer in layers]
        self.target = BNTarget.from_layers(means, variances)
        self.inputs: list[Tensor] = []
        self.named_inputs: list[Tensor] = []
        self._has_names, self._wanted = has_names, 0

    def forget(self) -> None:
        """Drop what the last forward pass has left."""
        self.inputs, self.named_inputs = [], []

    def _features(self) -> list[Tensor]:
        return self.named_inputs if self._has_names else self.inputs

    def hear(self, heard: list[Tensor], layer_input: Tensor) -> None:
        """Keep what enters a layer, and end a pass that nobody needs any further."""
        heard.append(layer_input)
        if heard is self._features() and len(heard) == self._wanted:
            raise _Heard

    def statistics(self) -> BNStatistics:
        """Mean and biased variance of every channel of the last forward pass, float32."""
        moments = [channel_moments(layer_input) for layer_input in self.inputs]
        return BNStatistics.from_layers([m for m, _ in moments], [v for _, v in moments])

    def pooled(self) -> Tensor:
        """Spatial means of layer inputs, concatenated, ``[B, sum_l C_l]``, float32.

        Of the layers asked for by name, or else of all BatchNorm layers.
        """
        return torch.cat([spatial_means(x) for x in self._features()], dim=1)

    def features(self, teacher: FrozenTeacher, images: Tensor) -> Tensor:
        """:meth:`pooled` of ``images``; layers behind the last that it reads do not run.

        As many inputs are awaited as the pass before this has left, which has to be a whole one.
        """
        self._wanted = len(self._features())
        try:
            with suppress(_Heard):
                teacher(images)
        finally:
            self._wanted = 0
        return self.pooled()


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
    heard = BNTap(layers, has_names=bool(named))

    def start(_: nn.Module, __: Any) -> None:
        heard.forget()

    def hear(_: nn.Module, inputs: tuple[Tensor]) -> None:
        heard.hear(heard.inputs, inputs[0])

    def hear_named(_: nn.Module, inputs: tuple[Tensor]) -> None:
        heard.hear(heard.named_inputs, inputs[0])

    hooks = [teacher.register_forward_pre_hook(start)]
    hooks += [layer.register_forward_pre_hook(hear) for layer in layers]
    hooks += [layer.register_forward_pre_hook(hear_named) for layer in named]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
        heard.forget()
