"""Plain values of a configuration: shown, bounded, and of the type that a hint asks for."""

import collections.abc
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from src.common.errors import UserError, described, in_one_line

LARGEST_BATCH = 65_536
LARGEST_COUNT = 1_000_000_000
# Larger values are mistakes that would take hours or all memory to be found out.
_LARGEST = {
    "batch_size": LARGEST_BATCH,
    "image_size": 65_536,
    "depth": 10_000,
    "seed": 2**63 - 1,
}
_LONGEST = 200
# Whose classes are hints of what YAML can write.
_OF_PLAIN_VALUES = {*sys.stdlib_module_names, "pydantic"}


def shown(value: Any) -> str:
    """``repr`` for messages: bounded, and never an error."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a number of more digits than Python prints
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def reason(error: Exception) -> str:
    """What an error says, in one line, with its type where the text alone would puzzle."""
    text = in_one_line(error)
    return text if isinstance(error, ValueError) and text else described(error)


def items(value: Any) -> Iterator[tuple[Any, Any]]:
    """Keys and values of a mapping, places and values of a list; nothing of all else."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def refuse_non_finite(path: str, value: Any) -> None:
    """Refuse infinities and NaN anywhere below ``value``: no option means anything by them.

    Raises:
        UserError: For the first of them, with its key.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"Wrong value of '{path}': expected a finite number, but got {value}")
    for key, inner in items(value):
        refuse_non_finite(f"{path}.{key}" if path else str(key), inner)


def check_bounds(path: str, name: str, value: Any) -> None:
    """Refuse integers anywhere below ``value`` that can only be slips.

    Args:
        path: Dotted key of the value.
        name: The last of its keys that is no place in a list.
        value: What to look through.

    Raises:
        UserError: For the first of them, with its key.
    """
    largest = _LARGEST.get(name, LARGEST_COUNT)
    if isinstance(value, int) and not -LARGEST_COUNT <= value <= largest:
        bound = f">= {-LARGEST_COUNT}" if value < 0 else f"<= {largest}"
        raise UserError(f"Wrong value of '{path}': expected {bound}, but got {shown(value)}")
    for key, inner in items(value):
        check_bounds(f"{path}.{key}", name if isinstance(key, int) else str(key), inner)


def check_value(path: str, value: Any, hint: Any) -> None:
    """Check a value against a type hint.

    Raises:
        UserError: If it is of another type, or outside what the hint allows.
    """
    if isinstance(value, list):
        value = tuple(value) if "tuple" in str(hint) else value
    is_path = isinstance(value, str) and "Path" in str(hint)
    try:
        TypeAdapter(hint).validate_python(value, strict=not is_path)
    except PydanticSchemaGenerationError as error:  # of an object, which only a node can make
        raise UserError(
            f"Wrong value of '{path}': expected a node with a `_target_`, but got {shown(value)}"
        ) from error
    except PydanticUserError:
        return  # a hint that pydantic cannot read checks nothing
    except ValidationError as error:
        # Of a union there is one for every alternative.
        first, *others = error.errors()
        same = [first, *(other for other in others if other["input"] == first["input"])]
        rule = " or ".join(dict.fromkeys(each["msg"] for each in same))
        rule = rule.replace("Input should be", "expected", 1).replace("Input should be ", "")
        rule = rule.replace("an instance of Sequence", "a list")
        rule = "expected more values" if first["type"] == "missing" else rule
        got = shown(first["input"])
        raise UserError(f"Wrong value of '{path}': {rule}, but got {got}") from error


def hints_of(target: Any) -> dict[str, Any]:
    """Hints of the constructor; torch's import some of their names for type checkers only."""
    constructor = inspect.unwrap(target.__init__)
    own = getattr(constructor, "__globals__", {})
    names = {**vars(collections.abc), **vars(typing), **own}
    try:
        hints = typing.get_type_hints(target.__init__, localns=names, include_extras=True)
    except Exception:  # noqa: BLE001 - unresolved hints check nothing; the trial still does
        return {}
    if target.__module__.startswith("torch."):
        return {key: _without_tensors(hint) for key, hint in hints.items()}
    return hints


def _without_tensors(hint: Any) -> Any:
    """A hint of torch's, as far as YAML can meet it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        options = [
            _without_tensors(each)
            for each in arguments
            if getattr(each, "__name__", "") != "Tensor"
        ]
        return typing.Union[tuple(options)]  # noqa: UP007 - of options known at run time only
    if origin is tuple:
        return tuple[tuple(_without_tensors(each) for each in arguments)]  # type: ignore[misc]
    if origin is collections.abc.Iterable:
        return list[arguments[0]]  # type: ignore[valid-type]
    return hint


@dataclass(frozen=True)
class Wanted:
    """An object that a constructor asks for: an instance, or what makes instances."""

    base: Any
    is_factory: bool


def wanted(hint: Any) -> Wanted | None:
    """What a hint asks for, if only a node can give it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return next((found for found in map(wanted, arguments) if found), None)
    if origin is typing.Annotated:
        return wanted(arguments[0])
    if origin in (partial, collections.abc.Callable) or hint in (partial, Callable):
        made = arguments[-1] if arguments else object
        return Wanted(made if inspect.isclass(made) else object, is_factory=True)
    if inspect.isclass(hint) and hint.__module__.split(".")[0] not in _OF_PLAIN_VALUES:
        return Wanted(hint, is_factory=False)
    return None
