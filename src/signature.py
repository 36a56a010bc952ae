"""Checks a ``_target_`` node by what it names: the constructor of the class is its schema.

What a signature cannot tell (a learning rate of -1, a depth that no network has) is found by
building the object in small: optimisers on two parameters, networks without memory.
"""

import collections.abc
import inspect
import math
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from src.common.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

Node = dict[str, Any]
LARGEST_BATCH = 65_536
LARGEST_COUNT = 1_000_000_000
_TARGETS = ("src.", "torch.optim.", "torchvision.")
# Of Hydra's own keys; the others change how arguments arrive, which no constructor expects.
_OWN_KEYS = ("_target_", "_partial_")
# Larger values are mistakes that would take hours or all memory to be found out.
_LARGEST = {
    "batch_size": LARGEST_BATCH,
    "image_size": 65_536,
    "depth": 10_000,
    "seed": 2**63 - 1,
}
_LARGEST_NETWORK = 10_000_000_000
_MOST_TRIAL_STEPS = 1000
_TRIAL_SIZES = (32, 224)
_LONGEST = 200


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
    "optimizer": Kind("an optimiser", "torch.optim.Optimizer", first_is_supplied=True),
    "scheduler": Kind(
        "a learning-rate schedule", "torch.optim.lr_scheduler.LRScheduler", first_is_supplied=True
    ),
    "generator": Kind(
        "an image generator", "src.network.generator.ImageGenerator", ("image_size", "channels")
    ),
    "discriminator": Kind("a discriminator", "torch.nn.Module", ("channels",)),
}


def check_node(path: str, node: Node, kind: str) -> None:
    """Check a ``_target_`` node, and those within it, and build in small what they name.

    Args:
        path: Dotted key of the node.
        node: The node.
        kind: What it must make, a key of :data:`KINDS`.

    Raises:
        UserError: If the target is outside this project and torch, or makes something else; if
            an argument is unknown, missing, or of the wrong type or range; or if the object
            cannot be built.
    """
    _refuse_foreign_targets(path, node)
    _check_bounds(path, path, node)
    _check(path, node, kind, KINDS[kind])


def target_of(path: str, node: Node) -> type:
    """The class that a node names."""
    target: type = _import_target(path, node)
    return target


def shown(value: Any) -> str:
    """``repr`` for messages: bounded, and never an error."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a number of more digits than Python prints
        return f"a {type(value).__name__} that cannot be shown"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def refuse_non_finite(path: str, value: Any) -> None:
    """Refuse infinities and NaN anywhere below ``value``: no option means anything by them.

    Raises:
        UserError: For the first of them, with its key.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"Wrong value of '{path}': expected a finite number, but got {value}")
    for key, inner in _items(value):
        refuse_non_finite(f"{path}.{key}" if path else str(key), inner)


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def _check_bounds(path: str, name: str, value: Any) -> None:
    largest = _LARGEST.get(name, LARGEST_COUNT)
    if isinstance(value, int) and not -LARGEST_COUNT <= value <= largest:
        bound = f">= {-LARGEST_COUNT}" if value < 0 else f"<= {largest}"
        raise UserError(f"Wrong value of '{path}': expected {bound}, but got {shown(value)}")
    for key, inner in _items(value):
        _check_bounds(f"{path}.{key}", name if isinstance(key, int) else str(key), inner)


def _is_node(value: Any) -> bool:
    return isinstance(value, dict) and "_target_" in value


def _refuse_foreign_targets(path: str, value: Any) -> None:
    """Hydra instantiates targets at any depth: also where no constructor expects one."""
    if _is_node(value):
        _import_target(path, value)
    for key, inner in _items(value):
        _refuse_foreign_targets(f"{path}.{key}", inner)


def _import_target(path: str, node: Node) -> Any:
    if "_target_" not in node:
        raise UserError(f"Missing configuration key '{path}._target_': the class to build")
    name = node["_target_"]
    name = name if isinstance(name, str) else shown(name)
    module, _, attribute = name.rpartition(".")
    if not name.startswith(_TARGETS):
        raise UserError(
            f"Refused '{path}._target_={name}': expected a class of {', '.join(_TARGETS)}"
        )
    try:
        target = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"Cannot find '{path}._target_={name}' ({error})") from error
    except Exception as error:  # whatever is wrong in the module
        reason = _reason(error)
        raise UserError(f"Cannot import '{path}._target_={name}' ({reason})") from error
    if not inspect.isclass(target):
        raise UserError(f"Refused '{path}._target_={name}': expected a class")
    return target


def _import(name: str) -> type:
    module, _, attribute = name.rpartition(".")
    found: type = getattr(import_module(module), attribute)
    return found


def _kind_of(target: type) -> str | None:
    names = [name for name in KINDS if name not in ("pool", "discriminator")]
    found = (name for name in [*names, "pool"] if issubclass(target, _import(KINDS[name].base)))
    return next(found, None)


def _check(path: str, node: Node, name: str | None, kind: Kind) -> None:
    """Check a node whose targets are known to be harmless."""
    target = _import_target(path, node)
    _check_class(path, node, target, kind)
    try:
        parameters = inspect.signature(target).parameters
    except (ValueError, TypeError) as error:
        raise UserError(
            f"Refused '{path}._target_={node['_target_']}': its constructor has no signature"
        ) from error
    supplied = _supplied(path, target, parameters, kind, name == "baseline")
    if name == "baseline":
        _check_methods(path, target)
    _check_keys(path, node, parameters, supplied, kind.is_open)
    hints = _hints(target)
    for key, value in node.items():
        if key not in _OWN_KEYS:
            _check_argument(f"{path}.{key}", key, value, hints.get(key, Any))
    if name in _TRIALS:
        _TRIALS[name](path, node)


def _check_class(path: str, node: Node, target: type, kind: Kind) -> None:
    place = f"'{path}._target_={node['_target_']}'"
    if not issubclass(target, _import(kind.base)):
        found = _kind_of(target)
        other = f", but got {KINDS[found].noun}" if found else ""
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


def _supplied(
    path: str,
    target: type,
    parameters: Mapping[str, inspect.Parameter],
    kind: Kind,
    is_baseline: bool,
) -> set[str]:
    """Names of what the program supplies, which the constructor must take."""
    if kind.first_is_supplied:
        return set(list(parameters)[:1])
    supplied = [*kind.supplied]
    reads_pool = is_baseline and bool(getattr(target, "reads_pool", False))
    if reads_pool:
        supplied.append("pool")
    place = f"'{path}._target_={target.__module__}.{target.__qualname__}'"
    takes_all = any(each.kind == each.VAR_KEYWORD for each in parameters.values())
    for name in supplied:
        by_name = name in parameters and parameters[name].kind != inspect.Parameter.POSITIONAL_ONLY
        if not by_name and not takes_all:
            raise UserError(
                f"Refused {place}: its constructor must take `{name}`, which the program supplies"
            )
    if is_baseline and not reads_pool and "pool" in parameters:
        raise UserError(
            f"Refused {place}: its constructor takes `pool`, so the class needs reads_pool = True"
        )
    return set(supplied)


def _check_keys(
    path: str,
    node: Node,
    parameters: Mapping[str, inspect.Parameter],
    supplied: set[str],
    is_open: bool,
) -> None:
    kinds = inspect.Parameter
    named = {
        key: each
        for key, each in parameters.items()
        if each.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
    }
    takes_all = any(each.kind == kinds.VAR_KEYWORD for each in parameters.values())
    for key, value in node.items():
        if key == "_partial_" and not isinstance(value, bool):
            raise UserError(
                f"Wrong value of '{path}._partial_': expected true or false, but got "
                f"{shown(value)}"
            )
        is_known = key in named or (takes_all and not str(key).startswith("_"))
        if not is_known and key not in _OWN_KEYS:
            raise UserError(f"Unknown configuration key '{path}.{key}'{nearest(str(key), named)}")
        if key in supplied:
            raise UserError(
                f"Wrong value of '{path}.{key}': expected no such key, since the program supplies "
                f"it, but got {shown(value)}"
            )
    for key, parameter in named.items():
        is_needed = parameter.default is parameter.empty and key not in supplied
        if is_needed and key not in node and not is_open:
            raise UserError(f"Missing configuration key '{path}.{key}'")


def _hints(target: Any) -> dict[str, Any]:
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
        options = [_without_tensors(each) for each in arguments if _name(each) != "Tensor"]
        return typing.Union[tuple(options)]  # noqa: UP007 - of options known at run time only
    if origin is tuple:
        return tuple[tuple(_without_tensors(each) for each in arguments)]  # type: ignore[misc]
    if origin is collections.abc.Iterable:
        return list[arguments[0]]  # type: ignore[valid-type]
    return hint


def _name(hint: Any) -> str:
    return str(getattr(hint, "__name__", ""))


def _check_argument(path: str, key: str, value: Any, hint: Any) -> None:
    wanted = _wanted(hint)
    is_node = _is_node(value)
    if wanted is not None and not is_node:
        if value is None and type(None) in typing.get_args(hint):
            return
        kind = _kind_for(key, wanted)[1]
        raise UserError(
            f"Wrong value of '{path}': expected a node with a `_target_` that makes {kind.noun}, "
            f"but got {shown(value)}"
        )
    if not is_node:
        _check_value(path, value, hint)
        return
    if wanted is None and hint is not Any:
        raise UserError(
            f"Wrong value of '{path}': expected a plain value, but got a node with the `_target_` "
            f"{value['_target_']}"
        )
    if wanted is None:
        name = _kind_of(_import_target(path, value))
        _check(path, value, name, KINDS[name] if name else _OTHER)
        return
    if bool(value.get("_partial_", False)) != wanted.is_factory:
        why = "true, since the program gives it more arguments" if wanted.is_factory else "false"
        got = shown(value.get("_partial_"))
        raise UserError(f"Wrong value of '{path}._partial_': expected {why}, but got {got}")
    _check(path, value, *_kind_for(key, wanted))


@dataclass(frozen=True)
class _Wanted:
    """An object that a constructor asks for: an instance, or what makes instances."""

    base: Any
    is_factory: bool


_OTHER = Kind("an object", "builtins.object", is_open=True)


def _wanted(hint: Any) -> _Wanted | None:
    """What a hint asks for, if only a node can give it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return next((found for found in map(_wanted, arguments) if found), None)
    if origin is typing.Annotated:
        return _wanted(arguments[0])
    if origin in (partial, collections.abc.Callable) or hint in (partial, Callable):
        made = arguments[-1] if arguments else object
        return _Wanted(made if inspect.isclass(made) else object, is_factory=True)
    if inspect.isclass(hint) and hint.__module__.startswith(("src.", "torch.")):
        return _Wanted(hint, is_factory=False)
    return None


def _kind_for(key: str, wanted: _Wanted) -> tuple[str | None, Kind]:
    if key == "discriminator":
        return key, KINDS[key]
    name = _kind_of(wanted.base)
    if name:
        return name, KINDS[name]
    base = f"{wanted.base.__module__}.{wanted.base.__qualname__}"
    return None, Kind(f"a {wanted.base.__name__}", base, is_open=wanted.is_factory)


def _check_value(path: str, value: Any, hint: Any) -> None:
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
        rule = "expected more values" if first["type"] == "missing" else rule
        got = shown(first["input"])
        raise UserError(f"Wrong value of '{path}': {rule}, but got {got}") from error


@contextmanager
def _building(path: str, node: Node, note: str = "") -> Iterator[None]:
    """Turn whatever goes wrong while an object is built into one line, and keep torch's dice."""
    import torch

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:
            given = ", ".join(f"{k}={shown(v)}" for k, v in node.items() if k not in _OWN_KEYS)
            raise UserError(
                f"Cannot build '{path}' ({node['_target_']}) with {given or 'no arguments'}: "
                f"{_reason(error)}{note}; change a value of '{path}'"
            ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _maker(node: Node) -> Any:
    from hydra.utils import instantiate

    return instantiate({**node, "_partial_": True}, _convert_="all")


def try_optimizer(path: str, node: Node) -> "Optimizer":
    """An optimiser of two small parameters, after one step.

    Raises:
        UserError: If it cannot be built, or cannot step as the program steps it.
    """
    import torch

    with _building(path, node):
        parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in ((2,), (2, 2, 1, 1))]
        optimizer: Optimizer = _maker(node)(parameters)
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.1)
        optimizer.step()
    return optimizer


def try_scheduler(
    path: str, node: Node, optimizer: "Optimizer", steps: int, note: str = ""
) -> None:
    """Build a schedule and step it as often as the run will; beyond 1000 steps, only the last.

    Args:
        path: Dotted key of the node.
        node: The node.
        optimizer: What it is built on; its rates are changed.
        steps: How often to step it.
        note: For the message, after what went wrong.

    Raises:
        UserError: If it cannot be built or stepped, or makes a rate negative or not finite.
    """
    with _building(path, node, note):
        scheduler = _maker(node)(optimizer)
        for step in range(min(steps, _MOST_TRIAL_STEPS)):
            _check_rates(optimizer, step)
            scheduler.step()
        if steps > _MOST_TRIAL_STEPS:
            scheduler.last_epoch = steps - 1
            scheduler.step()


def _check_rates(optimizer: "Optimizer", step: int) -> None:
    for group in optimizer.param_groups:
        rate = float(group["lr"])
        if not math.isfinite(rate) or rate < 0:
            raise ValueError(
                f"the learning rate is {rate} after {step} steps, expected a finite one >= 0"
            )


def _build_without_memory(path: str, node: Node, **supplied: Any) -> "nn.Module | None":
    """The network on the meta device; None if its constructor reads values of tensors."""
    import torch

    with _building(path, node):
        try:
            with torch.device("meta"):
                network: nn.Module = _maker(node)(**supplied)
        except (NotImplementedError, RuntimeError) as error:
            if "meta" in str(error):
                return None
            raise
        counts = [parameter.numel() for parameter in network.parameters()]
        if 0 in counts:
            raise ValueError("it has a layer without weights")
        if sum(counts) > _LARGEST_NETWORK:
            raise ValueError(
                f"expected at most {_LARGEST_NETWORK} parameters, but got {sum(counts)}"
            )
    return network


def _try_classifier(path: str, node: Node) -> None:
    from torch import nn

    network = _build_without_memory(path, node, num_classes=2)
    with _building(path, node):
        if network is not None and not isinstance(network.head, nn.Linear):
            raise ValueError(f"expected `head` to be a linear layer, but got {network.head}")


def _try_generator(path: str, node: Node) -> None:
    """At either of two usual sizes, since the real one may have to be read from images."""
    first, second = _TRIAL_SIZES
    try:
        _build_without_memory(path, node, image_size=first, channels=3)
    except UserError as error:
        try:
            _build_without_memory(path, node, image_size=second, channels=3)
        except UserError:
            raise error from None


def _try_discriminator(path: str, node: Node) -> None:
    _build_without_memory(path, node, channels=3)


def _try_dataset(path: str, node: Node) -> None:
    """Its constructor touches no file."""
    with _building(path, node):
        _maker(node)()


_TRIALS: dict[str | None, Callable[[str, Node], Any]] = {
    "dataset": _try_dataset,
    "pool": _try_dataset,
    "network": _try_classifier,
    "optimizer": try_optimizer,
    "generator": _try_generator,
    "discriminator": _try_discriminator,
}
