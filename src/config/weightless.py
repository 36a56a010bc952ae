"""Networks of ``_target_`` nodes on the meta device: their shapes, without memory or time."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from src.config.attempt import works
from src.config.node import Node, build

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
_LARGEST_NETWORK = 10_000_000_000
_SIZES = (32, 224)


def _pass(network: "nn.Module | None", *shape: int) -> "Tensor | None":
    """What a network without memory makes of a batch; None if it reads values of tensors."""
    import torch

    if network is None:
        return None
    with torch.no_grad():
        made: Tensor | None = _unless_values_are_read(
            partial(network, torch.empty(2, *shape, device="meta"))
        )
    return made


def _unless_values_are_read(make: Callable[[], T]) -> T | None:
    """What ``make`` makes on the meta device; None if it reads values of tensors."""
    try:
        return make()
    except (NotImplementedError, RuntimeError) as error:
        if "meta" in str(error):
            return None
        raise


def pass_discriminator(node: Node, image_size: int) -> None:
    """Raise whatever it raises of images of a size, pixels."""
    _pass(_build_without_memory(node, channels=3), 3, image_size, image_size)


def pass_generator(node: Node, image_size: int) -> None:
    """Raise unless it makes images of a size, pixels."""
    network: Any = _build_without_memory(node, image_size=image_size, channels=3)
    made = None if network is None else _pass(network, *network.latent_shape)
    if made is not None and made.shape != (2, 3, image_size, image_size):
        raise ValueError(f"it makes images of {list(made.shape[2:])}")


def _build_without_memory(node: Node, **supplied: Any) -> "nn.Module | None":
    """The network on the meta device; None if its constructor reads values of tensors."""
    import torch

    with torch.device("meta"):
        network: nn.Module | None = _unless_values_are_read(partial(build, node, **supplied))
    if network is None:
        return None
    counts = [parameter.numel() for parameter in network.parameters()]
    if 0 in counts:
        raise ValueError("it has a layer without weights")
    if sum(counts) > _LARGEST_NETWORK:
        raise ValueError(f"expected at most {_LARGEST_NETWORK} parameters, but got {sum(counts)}")
    return network


def build_classifier(node: Node) -> None:
    """Raise unless it can be built, ends in a linear layer, and has the stages it names."""
    from torch import nn

    network: Any = _build_without_memory(node, num_classes=2)
    if network is None:
        return
    if not isinstance(network.head, nn.Linear):
        raise ValueError(f"expected `head` to be a linear layer, but got {network.head}")
    unknown = set(network.stage_names) - dict(network.named_modules()).keys()
    if unknown:
        raise ValueError(f"expected `stage_names` of its modules, but got {', '.join(unknown)}")


def build_generator(node: Node) -> None:
    """At either of two usual sizes, since the real one may have to be read from images."""
    usual, large = (partial(_build_without_memory, image_size=size, channels=3) for size in _SIZES)
    if not works(usual, node) and not works(large, node):
        usual(node)


def build_discriminator(node: Node) -> None:
    """Raise unless it can be built."""
    _build_without_memory(node, channels=3)
