"""Builds in small what a ``_target_`` node names, for what no signature can tell.

A learning rate of -1, a depth that no network has: optimisers step on two parameters, networks
are built without memory.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from src.common.errors import UserError
from src.config.attempt import attempt, quietly
from src.config.node import Node, build, build_partial
from src.config.signature import check_signature
from src.config.value import reason
from src.config.weightless import (
    build_classifier,
    build_discriminator,
    build_generator,
    pass_discriminator,
    pass_generator,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

_IMAGES = 4  # that an adjustment is tried on
_CLASSES = 100  # in a trial without data
_FEWEST, _MOST = 2, 1024  # prototypes in a trial


def check_node(path: str, node: Node, kind: str) -> None:
    """Check a ``_target_`` node, and those within it, and build in small what they name.

    Args:
        path: Dotted key of the node.
        node: The node.
        kind: What it must make, a key of :data:`src.config.kind.KINDS`.

    Raises:
        UserError: If its signature is wrong, or the object cannot be built.
    """
    for found in check_signature(path, node, kind):
        if found.kind in _TRIALS:
            attempt(found.path, found.node, _TRIALS[found.kind])


def check_size(path: str, node: Node, kind: str, image_size: int) -> None:
    """Try generators and discriminators of a node at the size that images really have.

    Args:
        path: Dotted key of the node.
        node: The node, which can be built.
        kind: What it must make, a key of :data:`src.config.kind.KINDS`.
        image_size: Height and width of the images, pixels.

    Raises:
        UserError: If a generator cannot make such images, or a discriminator not take them.
    """
    for found in check_signature(path, node, kind):
        if found.kind not in _PASSES:
            continue
        try:
            quietly(partial(_PASSES[found.kind], image_size=image_size), found.node)
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
    return attempt(path, node, lambda tried: _step_optimizer(tried, scales))


def try_adjustment(path: str, node: Node, space: str, wanted: int | str) -> "nn.Module":
    """An adjustment of a hundred classes, where those of the data are not known yet.

    Args:
        path: Dotted key of the node.
        node: The node.
        space: What the dictionary is made of: ``logits`` or ``features``.
        wanted: N; ``auto`` may find two.

    Raises:
        UserError: If it cannot be built, e.g. because it needs a dictionary of the other space.
    """
    return attempt(path, node, partial(_adjustment, space=space, wanted=wanted))


def check_adjustment(
    path: str, node: Node, space: str, wanted: int | str, num_classes: int
) -> None:
    """Let an adjustment adjust a few images, of the classes and by the prototypes of the run.

    Args:
        path: Dotted key of the node.
        node: The node, which can be built.
        space: What the dictionary is made of: ``logits`` or ``features``.
        wanted: N; ``auto`` may find two.
        num_classes: K.

    Raises:
        UserError: If it cannot, or gives something of another shape.
    """
    import torch

    logits = torch.randn(_IMAGES, num_classes, generator=torch.Generator().manual_seed(1))

    def adjust(tried: Node) -> None:
        module = _adjustment(tried, space, wanted, num_classes)
        _require_shape("forward", module(logits), (_IMAGES, num_classes))
        weights = module.weights(logits)  # type: ignore[operator]
        if weights is not None:
            _require_shape("weights", weights, (_IMAGES,))

    attempt(path, node, adjust)


def _adjustment(
    node: Node, space: str, wanted: int | str, num_classes: int = _CLASSES
) -> "nn.Module":
    """Of prototypes that mean nothing, but differ."""
    import torch

    from src.kdci.dictionary import ConfounderDictionary

    num_prototypes = min(wanted, _MOST) if isinstance(wanted, int) else _FEWEST
    width = num_classes + (space == "features")
    dictionary = ConfounderDictionary(
        torch.randn(num_prototypes, width, generator=torch.Generator().manual_seed(0)),
        torch.full((num_prototypes,), 1 / num_prototypes),
        torch.ones(num_prototypes, num_classes).long(),
        {"space": space},
    )
    module: nn.Module = build(node, dictionary=dictionary, num_classes=num_classes, seed=0)
    list(module.parameters())  # fails where the module has not been initialised
    for name, fact in getattr(module, "facts", {}).items():  # which the run's record will hold
        if not isinstance(fact, int | float):
            raise TypeError(f"expected a number in facts['{name}'], but got {fact!r}")
    return module


def _require_shape(name: str, found: "Tensor", expected: tuple[int, ...]) -> None:
    if tuple(found.shape) != expected:
        raise ValueError(
            f"expected {name} of {_IMAGES} images to be {list(expected)}, but got "
            f"{list(found.shape)}"
        )


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


def _build_clustering(node: Node) -> None:
    build(node, seed=0)


def _build_dataset(node: Node) -> None:
    """Its constructor touches no file."""
    build(node)


_TRIALS: dict[str | None, Callable[[Node], Any]] = {
    "dataset": _build_dataset,
    "pool": _build_dataset,
    "network": build_classifier,
    "clustering": _build_clustering,
    "optimizer": _step_optimizer,
    "generator": build_generator,
    "discriminator": build_discriminator,
}

_PASSES: dict[str | None, Callable[..., None]] = {
    "generator": pass_generator,
    "discriminator": pass_discriminator,
}
