"""What a ``_target_`` node can make, and what the program supplies to its constructor."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from src.common.errors import UserError
from src.config.node import import_class


@dataclass(frozen=True)
class Kind:
    """What a node must make, and what the program supplies when it builds it.

    Attributes:
        noun: For messages.
        base: Name of the class that it must be, or derive from.
        supplied: Arguments that the program gives by name: neither required nor allowed in YAML.
        first_is_supplied: The program gives the first argument, whatever its name.
        is_open: What the program gives is not known, so nothing is missed.
    """

    noun: str
    base: str
    supplied: tuple[str, ...] = ()
    first_is_supplied: bool = False
    is_open: bool = False


KINDS = {
    "dataset": Kind("a data set", "src.dataset.contract.Dataset"),
    "pool": Kind("a pool of images", "src.dataset.contract.Pool"),
    "baseline": Kind("a baseline", "src.substitution.contract.Baseline", ("teacher", "spec")),
    "network": Kind("a classifier", "src.network.classifier.Classifier", ("num_classes",)),
    "clustering": Kind("a clustering", "src.kdci.clustering.Clustering", ("seed",)),
    "adjustment": Kind(
        "an adjustment",
        "src.kdci.adjustment.Adjustment",
        ("dictionary", "num_classes", "seed"),
    ),
    "optimizer": Kind("an optimiser", "torch.optim.Optimizer", first_is_supplied=True),
    "scheduler": Kind(
        "a learning-rate schedule", "torch.optim.lr_scheduler.LRScheduler", first_is_supplied=True
    ),
    "generator": Kind(
        "an image generator", "src.network.generator.ImageGenerator", ("image_size", "channels")
    ),
    "discriminator": Kind("a discriminator", "torch.nn.Module", ("channels",)),
}
_OTHER = Kind("an object", "builtins.object", is_open=True)


def kind_named(name: str | None) -> Kind:
    """The kind that :func:`kind_of` has found, or that of all other objects."""
    return _OTHER if name is None else KINDS[name]


def named_parameters(parameters: Mapping[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
    """All but ``*args`` and ``**options``."""
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {key: each for key, each in parameters.items() if each.kind not in several}


def with_defaults(node: Mapping[str, Any], target: type) -> dict[str, Any]:
    """What a node gives its class, and the class's defaults where the node is silent."""
    named = handed_on(target)
    defaults = {key: each.default for key, each in named.items() if each.default is not each.empty}
    return defaults | {**node}


def handed_on(target: type) -> dict[str, inspect.Parameter]:
    """What a constructor takes by name, and what of its bases it takes as ``**options``."""
    found: dict[str, inspect.Parameter] = {}
    for parameters in constructors_of(target):
        found = named_parameters(parameters) | found
        if not takes_all(parameters):
            break
    return found


def constructors_of(target: type) -> Iterator[Mapping[str, inspect.Parameter]]:
    """What the constructor of a class takes, and then those of its bases that have their own."""
    for base in target.__mro__:
        init = vars(base).get("__init__")
        if inspect.isfunction(init):
            _, *own = inspect.signature(init).parameters.items()
            yield dict(own)


def takes_all(parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether ``**options`` are among them."""
    return any(each.kind == each.VAR_KEYWORD for each in parameters.values())


def kind_of(target: type) -> str | None:
    """The key of :data:`KINDS` that a class belongs to; None for what is no kind of ours."""
    names = [name for name in KINDS if name not in ("pool", "discriminator")]
    bases = {name: import_class(KINDS[name].base) for name in [*names, "pool"]}
    return next((name for name, base in bases.items() if issubclass(target, base)), None)


def supplied_by_program(
    path: str,
    target: type,
    parameters: Mapping[str, inspect.Parameter],
    kind: Kind,
    is_baseline: bool,
) -> set[str]:
    """Names of what the program gives a constructor, which must take all of it.

    Args:
        path: Dotted key of the node.
        target: Its class.
        parameters: Those of its constructor.
        kind: What it is built as.
        is_baseline: Whether that is a baseline, of which some are given the pool.

    Raises:
        UserError: If the constructor does not take one of them, or takes a pool that it is not
            given.
    """
    if kind.first_is_supplied:
        return set(list(parameters)[:1])
    supplied = [*kind.supplied]
    reads_pool = is_baseline and bool(getattr(target, "reads_pool", False))
    if reads_pool:
        supplied.append("pool")
    place = f"'{path}._target_={target.__module__}.{target.__qualname__}'"
    takes_any = takes_all(parameters)
    for name in supplied:
        by_name = name in parameters and parameters[name].kind != inspect.Parameter.POSITIONAL_ONLY
        if not by_name and not takes_any:
            raise UserError(
                f"Refused {place}: its constructor must take `{name}`, which the program supplies"
            )
    if is_baseline and not reads_pool and "pool" in parameters:
        raise UserError(
            f"Refused {place}: its constructor takes `pool`, so the class needs reads_pool = True"
        )
    return set(supplied)
