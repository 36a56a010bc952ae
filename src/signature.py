"""Checks a ``_target_`` node against the constructor that it names: that is its schema."""

import inspect
import typing
from importlib import import_module
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from src.common.errors import UserError, nearest

Node = dict[str, Any]
_TARGETS = ("src.", "torch.optim.", "torchvision.")
# Given by the program when it builds the node, so neither required nor allowed in YAML.
_SUPPLIED = {
    "teacher",
    "spec",
    "pool",
    "num_classes",
    "image_size",
    "channels",
    "params",
    "optimizer",
}


def check_node(path: str, node: Node) -> None:
    """Check a ``_target_`` node, and those within it, against constructor signatures.

    Raises:
        UserError: If the target is outside this project and torch, an argument is unknown,
            missing, or of the wrong type or range.
    """
    _refuse_foreign_targets(path, node)
    _check_signature(path, node)


def _check_signature(path: str, node: Node) -> None:
    target = _import_target(path, node)
    parameters = inspect.signature(target).parameters
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    for key in given:
        if key not in parameters:
            raise UserError(f"Unknown configuration key '{path}.{key}'{nearest(key, parameters)}")
    for key, parameter in parameters.items():
        required = parameter.default is parameter.empty and key not in _SUPPLIED
        if required and key not in given and parameter.kind != parameter.VAR_KEYWORD:
            raise UserError(f"Missing configuration key '{path}.{key}'")
    # Torch's own hints do not all resolve, and it checks its arguments itself.
    is_ours = node["_target_"].startswith("src.")
    hints = typing.get_type_hints(target.__init__, include_extras=True) if is_ours else {}
    for key, value in given.items():
        if isinstance(value, dict) and "_target_" in value:
            _check_signature(f"{path}.{key}", value)
        elif is_ours:
            _check_value(f"{path}.{key}", value, hints[key])


def _refuse_foreign_targets(path: str, value: Any) -> None:
    """Hydra instantiates targets at any depth: also where no constructor expects one."""
    if isinstance(value, dict) and "_target_" in value:
        _import_target(path, value)
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_foreign_targets(f"{path}.{key}", inner)


def _import_target(path: str, node: Node) -> Any:
    name = str(node.get("_target_", ""))
    module, _, attribute = name.rpartition(".")
    if not name.startswith(_TARGETS):
        raise UserError(
            f"Refused '{path}._target_={name}': expected a class of {', '.join(_TARGETS)}"
        )
    try:
        target = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"Cannot find '{path}._target_={name}' ({error})") from error
    if not inspect.isclass(target):
        raise UserError(f"Refused '{path}._target_={name}': expected a class")
    return target


def _check_value(path: str, value: Any, hint: Any) -> None:
    if isinstance(value, list):
        value = tuple(value) if "tuple" in str(hint) else value
    try:
        TypeAdapter(hint).validate_python(value, strict=not isinstance(value, str))
    except PydanticSchemaGenerationError as error:  # of an object, which only a node can make
        raise UserError(
            f"Wrong value of '{path}': expected a node with a `_target_`, but got {value!r}"
        ) from error
    except ValidationError as error:
        # Of a union there is one for every alternative.
        first, *others = error.errors()
        same = [first, *(other for other in others if other["input"] == first["input"])]
        rule = " or ".join(dict.fromkeys(each["msg"] for each in same))
        rule = rule.replace("Input should be", "expected", 1).replace("Input should be ", "")
        raise UserError(f"Wrong value of '{path}': {rule}, but got {first['input']!r}") from error
