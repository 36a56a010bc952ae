"""Tries to make something of a ``_target_`` node, and finds the key that is at fault."""

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from src.common.errors import MissingExtraError, UserError
from src.config.node import OWN_KEYS, Node
from src.config.value import reason, shown

T = TypeVar("T")


def attempt(path: str, node: Node, make: Callable[[Node], T], note: str = "") -> T:
    """What ``make`` makes of a node; whatever goes wrong becomes one line."""
    try:
        return quietly(make, node)
    except MissingExtraError:
        raise
    except Exception as error:
        guilty, rule = _find_guilty(node, make, error)
        suspects = guilty or [key for key in node if key not in OWN_KEYS]
        given = ", ".join(f"{key}={shown(node[key])}" for key in suspects) or "no arguments"
        what = f"Cannot build '{path}' ({node['_target_']}) with {given}"
        where = f"'{path}.{suspects[0]}'" if len(suspects) == 1 else f"a value of '{path}'"
        cure = f"change {where}"
        if not guilty and _fails_by_itself(node, make, error):
            cure = f"take another class for '{path}'"
        raise UserError(f"{what}: {rule}{note}; {cure}") from error


def quietly(make: Callable[[Node], T], node: Node) -> T:
    """Without warnings, and without a throw of torch's dice."""
    import torch

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        return make(node)


def _find_guilty(
    node: Node, make: Callable[[Node], Any], error: Exception
) -> tuple[list[str], str]:
    """Keys that are at fault, as far as trying can tell, and the rule that they break.

    Each of them alone, if left to its default, lets the object be built. There may be none.
    """
    given = [key for key in node if key not in OWN_KEYS]
    if isinstance(error, ZeroDivisionError):
        ones = {key: type(node[key])(1) for key in given if _is_zero(node[key])}
        zeros = [key for key in ones if works(make, {**node, key: ones[key]})]
        if zeros:
            rules = (f"{key} {'>= 1' if isinstance(node[key], int) else '> 0'}" for key in zeros)
            return zeros, f"expected {' or '.join(rules)}"
    guilty = [
        key for key in given if works(make, {k: value for k, value in node.items() if k != key})
    ]
    return guilty, reason(error)


def _fails_by_itself(node: Node, make: Callable[[Node], Any], error: Exception) -> bool:
    """Whether the class fails in the same way without any key, so that none can be at fault."""
    try:
        quietly(make, {key: value for key, value in node.items() if key in OWN_KEYS})
    except Exception as alone:  # noqa: BLE001 - compared with what went wrong
        return reason(alone) == reason(error)
    return False


def _is_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def works(make: Callable[[Node], Any], node: Node) -> bool:
    """Whether it can be made."""
    try:
        quietly(make, node)
    except Exception:  # noqa: BLE001 - whatever it is, this node cannot be built
        return False
    return True
