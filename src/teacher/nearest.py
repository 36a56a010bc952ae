"""Which network of ours a state dict is nearest to."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

import torch
import yaml  # type: ignore[import-untyped]
from torch import Size, Tensor

from src.common.package import CONF
from src.network.classifier import Classifier
from src.network.outside import OutsideNetwork
from src.teacher.unwrap import without_shells

_NEAR = 0.5
_COUNTER = "num_batches_tracked"  # read in training only, and absent from some files

Shapes = Mapping[str, Size]
_Body = Mapping[str, Size | None]  # None: any shape, as of the last layer, which has the classes


def required(network: Classifier) -> dict[str, Size]:
    """Names and shapes of the entries that a checkpoint must have."""
    return {
        without_shells(key): value.shape
        for key, value in network.state_dict().items()
        if not key.endswith(_COUNTER)
    }


def prefixes(state: Iterable[str], names: Collection[str]) -> Counter[str]:
    """How many of ``names`` lie below each prefix of the entries of ``state``."""
    found: Counter[str] = Counter()
    for key in state:
        parts = key.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in names:
                found["".join(f"{part}." for part in parts[:cut])] += 1
    return found


def advice(states: Iterable[Mapping[str, Tensor]], network: Classifier) -> str:
    """What to choose for these entries, for the end of a message."""
    head = without_shells(network.head_name)
    chosen, states = _body(required(network), head), list(states)
    scores = {
        name: max((_overlap(state, shapes) for state in states), default=(0.0, ""))
        for name, shapes in _ours().items()
    }
    name, (score, count) = max(
        scores.items(), key=lambda item: item[1][0], default=("", (0.0, ""))
    )
    if score < _NEAR:
        return (
            "choose the matching teacher=... or, since none is near, teacher=timm or "
            "teacher=torchvision with teacher.network.name=..., or bring its network, see 'Your "
            "network' in docs/bring-your-own.md"
        )
    known = f"the chosen one, {name}" if _ours()[name] == chosen else f"teacher={name}"
    return f"choose the matching teacher=...: nearest is {known} ({count} entries match)"


def _overlap(state: Mapping[str, Tensor], shapes: _Body) -> tuple[float, str]:
    """Share of the entries that match in name and shape, and the same in words."""
    found = prefixes(state, shapes).most_common(1)
    if not found:
        return 0.0, ""
    prefix = found[0][0]
    inside = [key for key in state if key.startswith(prefix) and not key.endswith(_COUNTER)]
    names = [(key, key.removeprefix(prefix)) for key in inside]
    hits = sum(name in shapes and shapes[name] in (None, state[key].shape) for key, name in names)
    return hits / max(len(shapes), len(inside)), f"{hits} of {len(inside)}"


def _body(shapes: Shapes, head: str) -> _Body:
    return {k: None if k.startswith(f"{head}.") else shape for k, shape in shapes.items()}


@cache
def _ours() -> Mapping[str, _Body]:
    """Shapes of every network that can be chosen as a teacher, by name."""
    names = sorted(path.stem for path in (CONF / "teacher").glob("*.yaml"))
    found = {name: _shapes(CONF / "student" / f"{name}.yaml") for name in names}
    return {name: shapes for name, shapes in found.items() if shapes}


def _shapes(path: Path) -> _Body:
    """Shapes of the network that a file describes; none if it is not that simple."""
    try:
        options = dict(yaml.safe_load(path.read_text(encoding="utf-8"))["network"])
        module, _, name = options.pop("_target_").rpartition(".")
        if not module.startswith("src.network."):
            return {}
        with torch.device("meta"):  # names and shapes only: no memory, no random numbers
            network: Classifier = getattr(import_module(module), name)(num_classes=2, **options)
        if isinstance(network, OutsideNetwork):  # one of many, under names of others
            return {}
        return _body(required(network), network.head_name)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, yaml.YAMLError):
        return {}
