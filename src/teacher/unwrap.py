"""Find the state dicts in what a training program has left behind."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from src.teacher.arrays import StoredArray

_DEPTH = 3
# Wrappers of modules that add a level to the names of their entries.
_SHELLS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_USUAL = {
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network"),
    *("state", "weights", "params", ""),
}
_AVERAGED = re.compile(r"(?i)(^|[._])(ema|swa|averaged?|shadow)([._]|$)")
_TEACHER = re.compile(r"(?i)(^|_)teacher(_|$)")
_NO_WEIGHTS = re.compile(  # whole words: no letter before or after
    r"(?i)(?<![a-z])(optim(?!al|i[sz]ed)[a-z]*|(lr)?sched(ulers?)?|(grad)?scalers?|amp_scaling"
    r"|grads?|momentum|callbacks|loops|hyper_param[a-z]*)(?![a-z])|^gradients?$"
)
# In the published files of torchvision's DenseNets, which its loader renames too.
_OLD_DENSE = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
_LEFTOVER = re.compile(r"(^|\.)(total_ops|total_params|_extra_state)$")  # of profilers and torch


@dataclass(frozen=True)
class Candidate:
    """A state dict that a file holds.

    Attributes:
        where: Dotted path of keys in the file; empty for the file itself.
        state: Its tensors, the names of module wrappers (``module.``, ``_orig_mod.``) removed.
    """

    where: str
    state: Mapping[str, Tensor]


def candidates(stored: Any) -> list[Candidate]:
    """All that could be the network's weights, outermost first."""
    return [Candidate(where, state) for where, state in _walk(stored, "", _DEPTH, set())]


def _walk(
    stored: Any, where: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if id(stored) in seen:  # what holds itself a thousand times would take forever
        return
    seen.add(id(stored))
    items = _items(stored)
    state = {key: tensor for key, value in items if (tensor := _tensor(value)) is not None}
    if state:
        yield where, _without_shells(state)
    for key, value in items if depth else ():
        if not _NO_WEIGHTS.search(key):
            yield from _walk(value, f"{where}.{key}".strip("."), depth - 1, seen)


def _items(stored: Any) -> list[tuple[str, Any]]:
    if isinstance(stored, Mapping):
        named = ((key, value) for key, value in stored.items() if isinstance(key, str))
        return [(key, value) for key, value in named if not _LEFTOVER.search(key)]
    if isinstance(stored, tuple | list):
        return [(f"[{index}]", v) for index, v in enumerate(stored) if isinstance(v, Mapping)]
    return []


def _tensor(value: Any) -> Tensor | None:
    found = value.tensor() if isinstance(value, StoredArray) else value
    if not isinstance(found, Tensor) or found.is_meta or found.layout is not torch.strided:
        return None  # no weights of a network are sparse, or without values
    return found.detach()


def without_shells(key: str) -> str:
    """The name of an entry without the levels that module wrappers and old DenseNets add."""
    plain = ".".join(part for part in key.split(".") if part not in _SHELLS)
    return _OLD_DENSE.sub(r"\1\2.", plain)


def _without_shells(state: dict[str, Tensor]) -> dict[str, Tensor]:
    plain = {without_shells(key): value for key, value in state.items()}
    return plain if len(plain) == len(state) else state  # two networks, one in a wrapper


def rank(where: str) -> int:
    """0 for where plain weights usually lie, 1 for elsewhere, 2 for averages over training."""
    if _AVERAGED.search(where):
        return 2
    parts = [part for part in where.split(".") if not re.fullmatch(r"\[\d+\]|\d+", part)]
    return 0 if all(part in _USUAL or _TEACHER.search(part) for part in parts) else 1


def outline(stored: Any) -> str:
    """The kind of an object and its first keys, for a message."""
    kind = type(stored).__name__
    if not isinstance(stored, Mapping) or not stored:
        return f"a {kind}"
    return f"a {kind} with the keys {listed(list(dict.fromkeys(map(str, stored))), 8)}"


def listed(names: Iterable[str], most: int) -> str:
    """Quoted names, and how many more there are."""
    names = list(names)
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
