"""Checks a ``_target_`` node by what it names: the constructor of the class is its schema."""

import inspect
import typing
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from src.common.errors import UserError, nearest
from src.config.kind import (
    KINDS,
    Kind,
    kind_named,
    kind_of,
    named_parameters,
    supplied_by_program,
    takes_all,
)
from src.config.node import OWN_KEYS, Node, import_class, is_node, target_of
from src.config.value import Wanted, check_bounds, check_value, hints_of, shown, wanted


class Found(NamedTuple):
    """A node whose signature is right; ``kind`` is None for what is no kind of ours."""

    path: str
    node: Node
    kind: str | None


def check_signature(path: str, node: Node, kind: str) -> list[Found]:
    """Check a ``_target_`` node, and those within it, without building anything.

    Args:
        path: Dotted key of the node.
        node: The node, whose targets :func:`~src.config.node.refuse_foreign_targets` let pass.
        kind: What it must make, a key of :data:`~src.config.kind.KINDS`.

    Returns:
        The node and all within it, the inner ones first.

    Raises:
        UserError: If the target makes something else, or an argument is unknown, missing, or of
            the wrong type.
    """
    check_bounds(path, path, node)
    return _check(path, node, kind, KINDS[kind])


def _check(path: str, node: Node, name: str | None, kind: Kind) -> list[Found]:
    """Check a node whose targets are known to be harmless."""
    target = target_of(path, node)
    _check_class(path, node, target, kind)
    try:
        parameters = inspect.signature(target).parameters
    except (ValueError, TypeError) as error:
        raise UserError(
            f"Refused '{path}._target_={node['_target_']}': its constructor has no signature"
        ) from error
    hints = hints_of(target)
    if name == "scheduler":
        _refuse_functions(path, node, hints)
    supplied = supplied_by_program(path, target, parameters, kind, name == "baseline")
    if name == "baseline":
        _check_methods(path, target)
    _check_keys(path, node, parameters, supplied, kind.is_open)
    found = []
    for key, value in node.items():
        if key not in OWN_KEYS:
            found += _check_argument(f"{path}.{key}", key, value, hints.get(key, Any))
    return [*found, Found(path, node, name)]


def _refuse_functions(path: str, node: Node, hints: Mapping[str, Any]) -> None:
    """Refuse what only a program can give a schedule, inside lists too."""
    for key, value in node.items():
        hint = str(hints.get(key, ""))
        if value is not None and ("Callable" in hint or "LRScheduler" in hint):
            raise UserError(
                f"Wrong value of '{path}.{key}': expected a node without it, since a schedule "
                "that is built from other schedules or functions cannot be given in YAML, but "
                f"got {shown(value)}; choose another schedule"
            )


def _check_class(path: str, node: Node, target: type, kind: Kind) -> None:
    place = f"'{path}._target_={node['_target_']}'"
    if not issubclass(target, import_class(kind.base)):
        found = kind_of(target)
        other = f", but got {KINDS[found].noun}" if found else ""
        if found and KINDS[found].noun == kind.noun:  # which the hint asks more of
            other = f", but got {target.__qualname__}; choose that class or one derived from it"
        raise UserError(f"Refused {place}: expected {kind.noun}, a subclass of {kind.base}{other}")
    if inspect.isabstract(target):
        abstract: frozenset[str] = getattr(target, "__abstractmethods__", frozenset())
        lacking = ", ".join(f"`{method}`" for method in sorted(abstract))
        raise UserError(f"Refused {place}: the class is abstract, it must define {lacking}")


def _check_methods(path: str, target: type) -> None:
    """Refuse a baseline whose methods cannot be called as stage (a) calls them."""
    for method, argument in (("refresh", "student"), ("sample", "n")):
        function = inspect.getattr_static(target, method)
        got = shown(function)
        try:
            signature = inspect.signature(function)
            got = f"`{method}{signature}`"
            signature.bind(None, None)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"Refused '{path}._target_={target.__module__}.{target.__qualname__}': expected "
                f"its method `{method}(self, {argument})`, but got {got}"
            ) from error


def _check_keys(
    path: str,
    node: Node,
    parameters: Mapping[str, inspect.Parameter],
    supplied: set[str],
    is_open: bool,
) -> None:
    named, takes_any = named_parameters(parameters), takes_all(parameters)
    for key, value in node.items():
        if key == "_partial_" and not isinstance(value, bool):
            raise UserError(
                f"Wrong value of '{path}._partial_': expected true or false, but got "
                f"{shown(value)}"
            )
        is_known = key in named or (takes_any and not str(key).startswith("_"))
        if not is_known and key not in OWN_KEYS:
            hint = nearest(str(key), named)
            if not hint and "." in path:  # perhaps of the class that was there before
                hint = _replacing(path, node)
            raise UserError(f"Unknown configuration key '{path}.{key}'{hint}")
        if key in supplied:
            raise UserError(
                f"Wrong value of '{path}.{key}': expected no such key, since the program supplies "
                f"it, but got {shown(value)}"
            )
    for key, parameter in named.items():
        is_needed = parameter.default is parameter.empty and key not in supplied
        if is_needed and key not in node and not is_open:
            raise UserError(f"Missing configuration key '{path}.{key}'")


def _replacing(path: str, node: Node) -> str:
    """How to have another class; what a file says of a node is mixed with what was there."""
    target = node["_target_"]
    partial = ", _partial_: true" if node.get("_partial_") else ""
    whole = f"{{_target_: {target}{partial}, ...}}"
    *outer, last = path.split(".")
    own = f"{{{last}: ${{tables.own.{last}}}}}"
    for key in reversed(outer[1:]):
        own = f"{{{key}: {own}}}"
    return (
        f", which {target} does not take; to replace the whole node, options and all, give "
        f"'{path}={whole}', or in a file 'tables: {{own: {{{last}: {whole}}}}}' and "
        f"'{outer[0]}: {own}'"
    )


def _check_argument(path: str, key: str, value: Any, hint: Any) -> list[Found]:
    asked = wanted(hint)
    if asked is not None and not is_node(value):
        if not (value is None and type(None) in typing.get_args(hint)):
            raise UserError(
                f"Wrong value of '{path}': expected a node with a `_target_` that makes "
                f"{_kind_for(key, asked)[1].noun}, but got {shown(value)}"
            )
        return []
    if not is_node(value):
        check_value(path, value, hint)
        return []
    if asked is None and hint is not Any:
        raise UserError(
            f"Wrong value of '{path}': expected a plain value, but got a node with the `_target_` "
            f"{value['_target_']}"
        )
    if asked is None:
        name = kind_of(target_of(path, value))
        return _check(path, value, name, kind_named(name))
    if bool(value.get("_partial_", False)) != asked.is_factory:
        why = "true, since the program gives it more arguments" if asked.is_factory else "false"
        got = shown(value.get("_partial_"))
        raise UserError(f"Wrong value of '{path}._partial_': expected {why}, but got {got}")
    return _check(path, value, *_kind_for(key, asked))


def _kind_for(key: str, asked: Wanted) -> tuple[str | None, Kind]:
    if key == "discriminator":
        return key, KINDS[key]
    name = kind_of(asked.base)
    base = f"{asked.base.__module__}.{asked.base.__qualname__}"
    if name:  # a hint may ask for more than the kind does
        return name, replace(KINDS[name], base=base)
    return None, Kind(f"a {asked.base.__name__}", base, is_open=asked.is_factory)
