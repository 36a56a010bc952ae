"""Builds in small what a ``_target_`` node names, for what no signature can tell.

A learning rate of -1, a depth that no network has: optimisers step on two parameters, networks
are built without memory.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from src.common.errors import MissingExtraError, UserError
from src.config.node import OWN_KEYS, Node, build, build_partial
from src.config.signature import check_signature
from src.config.value import reason, shown

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

T = TypeVar("T")
_LARGEST_NETWORK = 10_000_000_000
_MOST_STEPS = 1000
_SIZES = (32, 224)


def check_node(path: str, node: Node, kind: str) -> None:
    """Check a ``_target_`` node, and those within it, and build in small what they name.

    Args:
        path: Dotted key of the node.
        node: The node.
        kind: What it must make, a key of :data:`src.config.signature.KINDS`.

    Raises:
        UserError: If its signature is wrong, or the object cannot be built.
    """
    for found in check_signature(path, node, kind):
        if found.kind in _TRIALS:
            _attempt(found.path, found.node, _TRIALS[found.kind])


def check_size(path: str, node: Node, kind: str, image_size: int) -> None:
    """Try generators and discriminators of a node at the size that images really have.

    Args:
        path: Dotted key of the node.
        node: The node, which can be built.
        kind: What it must make, a key of :data:`src.config.signature.KINDS`.
        image_size: Height and width of the images, pixels.

    Raises:
        UserError: If a generator cannot make such images, or a discriminator not take them.
    """
    for found in check_signature(path, node, kind):
        if found.kind not in _PASSES:
            continue
        try:
            _quietly(partial(_PASSES[found.kind], image_size=image_size), found.node)
        except Exception as error:
            raise UserError(
                f"Cannot use '{found.path}' ({found.node['_target_']}) for images of {image_size} "
                f"x {image_size} pixels: {reason(error)}; change dataset.image_size, or take "
                "another baseline or network"
            ) from error


def try_optimizer(path: str, node: Node, scales: Sequence[float] = ()) -> "Optimizer":
    """An optimiser of small parameters, after one step.

    Args:
        path: Dotted key of the node.
        node: The node.
        scales: Learning rates of the parameter groups relative to the node's; empty: the
            parameters come without groups.

    Raises:
        UserError: If it cannot be built, or cannot step as the program steps it.
    """
    return _attempt(path, node, lambda tried: _step_optimizer(tried, scales))


def try_scheduler(
    path: str, node: Node, optimizer: Callable[[], "Optimizer"], steps: int, note: str = ""
) -> None:
    """Build a schedule and step it as often as the run will; beyond 1000 steps, only the last.

    Args:
        path: Dotted key of the node.
        node: The node.
        optimizer: Makes what it is built on.
        steps: How often to step it.
        note: For the message, after what went wrong.

    Raises:
        UserError: If it cannot be built or stepped, or makes a rate negative or not finite.
    """
    _attempt(path, node, lambda tried: _step_scheduler(tried, optimizer(), steps), note)


def try_adjustment(path: str, node: Node, space: str) -> "nn.Module":
    """An adjustment of two classes by one confounder.

    Args:
        path: Dotted key of the node.
        node: The node.
        space: What the dictionary is made of: ``logits`` or ``features``.

    Raises:
        UserError: If it cannot be built, e.g. because it needs a dictionary of the other space.
    """
    import torch

    from src.kdci.dictionary import ConfounderDictionary

    given = ConfounderDictionary(
        torch.zeros(1, 2), torch.ones(1), torch.ones(1, 2).long(), {"space": space}
    )
    supplied = {"dictionary": given, "num_classes": 2, "seed": 0}
    made: nn.Module = _attempt(path, node, lambda tried: build(tried, **supplied))
    return made


def _attempt(path: str, node: Node, make: Callable[[Node], T], note: str = "") -> T:
    """What ``make`` makes of a node; whatever goes wrong becomes one line."""
    try:
        return _quietly(make, node)
    except MissingExtraError:
        raise
    except Exception as error:
        guilty, rule = _find_guilty(node, make, error)
        given = ", ".join(f"{key}={shown(node[key])}" for key in guilty) or "no arguments"
        what = f"Cannot build '{path}' ({node['_target_']}) with {given}"
        where = f"'{path}.{guilty[0]}'" if len(guilty) == 1 else f"a value of '{path}'"
        raise UserError(f"{what}: {rule}{note}; change {where}") from error


def _quietly(make: Callable[[Node], T], node: Node) -> T:
    """Without warnings, and without a throw of torch's dice."""
    import torch

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        return make(node)


def _find_guilty(
    node: Node, make: Callable[[Node], Any], error: Exception
) -> tuple[list[str], str]:
    """Keys that are at fault, as far as trying can tell, and the rule that they break.

    Each of them alone, if left to its default, lets the object be built. Without one all keys
    are named.
    """
    given = [key for key in node if key not in OWN_KEYS]
    if isinstance(error, ZeroDivisionError):
        ones = {key: type(node[key])(1) for key in given if _is_zero(node[key])}
        zeros = [key for key in ones if _works(make, {**node, key: ones[key]})]
        if zeros:
            rules = (f"{key} {'>= 1' if isinstance(node[key], int) else '> 0'}" for key in zeros)
            return zeros, f"expected {' or '.join(rules)}"
    guilty = [
        key for key in given if _works(make, {k: value for k, value in node.items() if k != key})
    ]
    return guilty or given, reason(error)


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _works(make: Callable[[Node], Any], node: Node) -> bool:
    try:
        _quietly(make, node)
    except Exception:  # noqa: BLE001 - whatever it is, this node cannot be built
        return False
    return True


def _step_optimizer(node: Node, scales: Sequence[float] = ()) -> "Optimizer":
    import torch

    shapes = ((2,), (2, 2, 1, 1))
    groups = [
        {"params": [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]}
        | ({"lr": node["lr"] * scale} if "lr" in node else {})
        for scale in scales or (1.0,)
    ]
    optimizer: Optimizer = build_partial(node)(groups if scales else groups[0]["params"])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step()
    return optimizer


def _step_scheduler(node: Node, optimizer: "Optimizer", steps: int) -> None:
    scheduler = build_partial(node)(optimizer)
    for step in range(min(steps, _MOST_STEPS)):
        _check_rates(optimizer, step)
        scheduler.step()
    if steps > _MOST_STEPS:
        scheduler.last_epoch = steps - 1
        scheduler.step()


def _check_rates(optimizer: "Optimizer", step: int) -> None:
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        if not math.isfinite(rate) or rate < 0:
            raise ValueError(
                f"the learning rate is {rate} after {step} steps, expected a finite one >= 0"
            )


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


def _pass_discriminator(node: Node, image_size: int) -> None:
    _pass(_build_without_memory(node, channels=3), 3, image_size, image_size)


def _pass_generator(node: Node, image_size: int) -> None:
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


def _build_classifier(node: Node) -> None:
    from torch import nn

    network = _build_without_memory(node, num_classes=2)
    if network is not None and not isinstance(network.head, nn.Linear):
        raise ValueError(f"expected `head` to be a linear layer, but got {network.head}")


def _build_generator(node: Node) -> None:
    """At either of two usual sizes, since the real one may have to be read from images."""
    usual, large = (partial(_build_without_memory, image_size=size, channels=3) for size in _SIZES)
    if not _works(usual, node) and not _works(large, node):
        usual(node)


def _build_discriminator(node: Node) -> None:
    _build_without_memory(node, channels=3)


def _build_clustering(node: Node) -> None:
    build(node, seed=0)


def _build_dataset(node: Node) -> None:
    """Its constructor touches no file."""
    build(node)


_TRIALS: dict[str | None, Callable[[Node], Any]] = {
    "dataset": _build_dataset,
    "pool": _build_dataset,
    "network": _build_classifier,
    "clustering": _build_clustering,
    "optimizer": _step_optimizer,
    "generator": _build_generator,
    "discriminator": _build_discriminator,
}

_PASSES: dict[str | None, Callable[..., None]] = {
    "generator": _pass_generator,
    "discriminator": _pass_discriminator,
}
