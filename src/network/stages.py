"""The stage maps of a network, out of a pass that is made anyway."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from src.common.errors import UserError


@contextmanager
def heard(network: nn.Module, names: Sequence[str]) -> Iterator[list[Tensor]]:
    """What modules of a network put out in the passes inside the block, in the order they run.

    With a gradient wherever the pass has one. Hooks are there inside the block only, and none
    without names; the maps live as long as the list.

    Args:
        network: Whom to listen to.
        names: Paths of its modules.

    Raises:
        AttributeError: If it has no module of such a path.
        UserError: In the pass, if a module puts out anything but a tensor.
    """
    outputs: list[Tensor] = []

    def hear(module: nn.Module, __: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            kind = type(module).__name__
            raise UserError(
                f"Expected a stage to put out one map, but a {kind} puts out a "
                f"{type(output).__name__}; choose a network with plain stages"
            )
        outputs.append(output)

    modules = [network.get_submodule(name) for name in names]
    hooks = [module.register_forward_hook(hear) for module in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
