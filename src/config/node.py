"""A ``_target_`` node: what it may name, and the object that it makes."""

import inspect
from collections.abc import Collection
from importlib import import_module
from typing import Any

from hydra.utils import instantiate

from src.common.errors import UserError
from src.common.package import NAME
from src.common.plugins import is_within
from src.config.value import items, reason, shown

Node = dict[str, Any]
_TARGETS = (f"{NAME}.", "torch.optim.", "torchvision.")
OWN_KEYS = ("_target_", "_partial_")
"""Of Hydra's own keys; the others change how arguments arrive, which no constructor expects."""


def build(node: Node, **supplied: Any) -> Any:
    """Instantiate a ``_target_`` node with what the program supplies.

    Through a partial, so that Hydra does not turn the supplied objects into configs.
    """
    return build_partial(node)(**supplied)


def build_partial(node: Node | None) -> Any:
    """A partial of a ``_target_`` node, for what is built from objects made later."""
    return None if node is None else instantiate({**node, "_partial_": True}, _convert_="all")


def is_node(value: Any) -> bool:
    """Whether Hydra would instantiate it."""
    return isinstance(value, dict) and "_target_" in value


def refuse_foreign_targets(path: str, value: Any, plugins: Collection[str] = ()) -> None:
    """Check all targets of a configuration, before one of them is imported or called.

    This is the security boundary. Hydra instantiates targets at any depth: also where no
    constructor expects one, and it would evaluate an interpolation that is left in a text.

    Args:
        path: Dotted key of the value; empty for a whole configuration.
        value: A node, or anything else.
        plugins: Names of more packages that are allowed.

    Raises:
        UserError: For the first that is no class, or of none of the allowed packages, and for
            texts that are still to be evaluated.
    """
    if isinstance(value, str) and "${" in value:
        raise UserError(
            f"Refused '{path}={shown(value)}': expected a plain text, but '${{' begins an "
            "interpolation, which has been evaluated before or is not meant to be"
        )
    if is_node(value):
        _refuse_foreign(path, value["_target_"], plugins)
        target = target_of(path, value)
        _refuse_foreign(path, f"{target.__module__}.{target.__qualname__}", plugins)
    for key, inner in items(value):
        refuse_foreign_targets(f"{path}.{key}" if path else str(key), inner, plugins)


def _refuse_foreign(path: str, name: Any, plugins: Collection[str]) -> None:
    """Of the name in YAML and of the class that it leads to, which may come from elsewhere."""
    name = name if isinstance(name, str) else shown(name)
    if not (name.startswith(_TARGETS) or is_within(name, plugins)):
        allowed = ", ".join((*_TARGETS, *(f"{plugin}." for plugin in plugins)))
        raise UserError(
            f"Refused '{path}._target_={name}': expected a class of {allowed}; "
            "plugins=[PACKAGE] on the command line allows another package"
        )


def target_of(path: str, node: Node) -> type:
    """The class that a node names, which :func:`refuse_foreign_targets` has let pass.

    Raises:
        UserError: If it names none, or if it cannot be imported.
    """
    if "_target_" not in node:
        raise UserError(f"Missing configuration key '{path}._target_': the class to build")
    name = node["_target_"]
    try:
        target = import_class(name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"Cannot find '{path}._target_={name}' ({error})") from error
    except Exception as error:  # whatever is wrong in the module
        raise UserError(f"Cannot import '{path}._target_={name}' ({reason(error)})") from error
    if not inspect.isclass(target):
        raise UserError(f"Refused '{path}._target_={name}': expected a class")
    return target


def import_class(name: str) -> type:
    """What a dotted name stands for."""
    module, _, attribute = name.rpartition(".")
    found: type = getattr(import_module(module), attribute)
    return found
