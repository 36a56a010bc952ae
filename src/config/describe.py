"""What pydantic finds wrong with the configuration, in one line."""

import inspect
import types
import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from src.common.errors import nearest
from src.config.value import shown

# Keys whose values are chosen as a whole: where the options are, and how one is chosen.
_GROUPS = {
    **{name: name for name in ("dataset", "baseline", "teacher", "student", "kdci")},
    **{name: name for name in ("trainer", "logger", "paths")},
    **{f"kdci.{name}": f"kdci/{name}" for name in ("dictionary", "adjustment")},
    "pool": "dataset@pool",
}

# What may be given too, and has had another value put in its place.
_REPLACED = {"trainer.precision": "'auto'"}


def describe(error: ValidationError, root: type[BaseModel]) -> str:
    """The first fault: its key, its value, what is allowed, and for an unknown key the nearest.

    Args:
        error: What pydantic has found.
        root: The model that it has checked.
    """
    first, *others = error.errors()
    location = [str(part) for part in first["loc"]]
    if first["type"] != "extra_forbidden":
        location = _keys(location, root)
    path = ".".join(location)
    if first["type"] == "extra_forbidden":
        model: Any = root
        for part in location[:-1]:
            model = _model_of(model.model_fields[part].annotation)
        return f"Unknown configuration key '{path}'{nearest(location[-1], model.model_fields)}"
    if first["type"] == "missing":
        return f"Missing configuration key '{path}'{_cure(path)}"
    if first["type"] == "value_error":
        return f"Wrong configuration: {first['ctx']['error']}"
    # Of a union there is one for every alternative.
    same = [each for each in others if list(map(str, each["loc"]))[: len(location)] == location]
    rules = dict.fromkeys(each["msg"] for each in (first, *same))
    also = [_REPLACED[path]] if path in _REPLACED else []
    rule = " or ".join([*rules, *also]).replace("Input should be", "expected", 1)
    rule = rule.replace("Input should be ", "")
    if first["type"] == "dict_type":
        rule = "expected a node with a `_target_`"
    if first["type"] == "model_type":
        rule = "expected a group of keys"
    cure = _cure(path) if first["type"] in ("dict_type", "model_type") else ""
    return f"Wrong value of '{path}': {rule}, but got {shown(first['input'])}{cure}"


def _keys(location: list[str], root: type[BaseModel]) -> list[str]:
    """A place without the names that pydantic gives the alternatives of a union."""
    model: Any = root
    for depth, part in enumerate(location, 1):
        if model is None or part not in model.model_fields:
            return location
        annotation = model.model_fields[part].annotation
        model = _model_of(annotation)
        if model is None and typing.get_origin(annotation) in (types.UnionType, typing.Union):
            return location[:depth]
    return location


def _cure(group: str) -> str:
    if group not in _GROUPS:
        return ""
    choice = _GROUPS[group]
    return f"; choose an option with {choice}=..., see conf/{choice.split('@')[0]}"


def _model_of(annotation: Any) -> Any:
    options = [annotation, *typing.get_args(annotation)]
    return next((o for o in options if inspect.isclass(o) and issubclass(o, BaseModel)), None)
