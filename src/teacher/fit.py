"""Fit the state dicts of a file to a network, or say why none does."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.common.errors import UserError
from src.network.classifier import Classifier
from src.teacher.nearest import Shapes, advice, prefixes, required
from src.teacher.read import FORMATS
from src.teacher.unwrap import Candidate, candidates, listed, outline, rank, without_shells

# What a LightningModule that is the network itself keeps beside its layers.
_TRAINING = re.compile(r"(^|_)(criterion|loss|metrics?|acc\d?|accuracy|n_averaged)(_|\.|$)")
_MEAN = re.compile(r"(^|[._])(mean|mu)$")
_MOST_NAMES = 4


@dataclass(frozen=True)
class _Place:
    """A network's entries below one prefix of one state dict."""

    candidate: Candidate
    prefix: str
    shapes: Shapes
    all_prefixes: tuple[str, ...] = ()  # of whole networks in the same state dict

    @property
    def where(self) -> str:
        return f"{self.candidate.where}.{self.prefix}".strip(".")

    @property
    def state(self) -> Mapping[str, Tensor]:
        return self.candidate.state

    def __getitem__(self, name: str) -> Tensor:
        return self.state[self.prefix + name]

    def missing(self) -> list[str]:
        return [name for name in self.shapes if self.prefix + name not in self.state]

    def others(self) -> list[str]:
        """Entries that are not the network's."""
        own = {self.prefix + name for name in self.shapes}
        counters = (key for key in self.state if key.endswith("num_batches_tracked"))
        own.update(key for key in counters if key.startswith(self.prefix))
        return [key for key in self.state if key not in own]

    def foreign(self) -> list[str]:
        """Those among them that make it another network."""
        known = self.normalisation()
        inside = [key for key in self.others() if key.startswith(self.prefix)]
        for prefix in self.all_prefixes:
            if prefix != self.prefix and prefix.startswith(self.prefix):
                inside = [key for key in inside if not key.startswith(prefix)]
        inside = [key for key in inside if key not in known]
        return [key for key in inside if not _TRAINING.search(key.removeprefix(self.prefix))]

    def normalisation(self) -> tuple[str, ...]:
        """Names of mean and standard deviation of a layer that normalises the images."""
        others = set(self.others())
        for mean in sorted(others):
            end = _MEAN.search(mean)
            for std in ("std", "sigma") if end else ():
                pair = (mean, f"{mean[: end.start(2)]}{std}" if end else "")
                if others.issuperset(pair) and all(self.state[k].numel() in (1, 3) for k in pair):
                    return pair
        return ()

    def misshaped(self) -> list[str]:
        return [name for name, shape in self.shapes.items() if self[name].shape != shape]


def fit(network: Classifier, stored: Any, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The entries of ``network`` as a file has them, and what its owner should know of them.

    Plain weights come before averaged ones (EMA, SWA). Entries of other modules are left out, as
    is a layer that normalises the images; a network of more entries is another network.

    Args:
        network: Whose names and shapes count.
        stored: What the file holds.
        path: The file, for messages.

    Returns:
        A state dict of ``network``, in its precision, and lines for the log.

    Raises:
        UserError: If no weights in the file are the network's, several different ones are, or
            they are not finite.
    """
    whole = _whole(network, stored, path)
    fitting = [place for place in whole if not place.misshaped()]
    if not fitting:
        raise _other_shapes(network, min(whole, key=lambda p: len(p.misshaped())), path)
    place = _chosen(fitting, path)
    return _converted(network, place, path), _notes(place, fitting, path)


def count_classes(network: Classifier, stored: Any, path: Path) -> int:
    """Outputs that a network has as a file has it: the rows of its last layer.

    Args:
        network: The same but for its number of classes.
        stored: What the file holds.
        path: The file, for messages.

    Raises:
        UserError: If no weights in the file are the network's, or several different ones are.
    """
    head = f"{without_shells(network.head_name)}."
    whole = _whole(network, stored, path)
    bodies = [p for p in whole if all(name.startswith(head) for name in p.misshaped())]
    place = _chosen(bodies, path) if bodies else whole[0]
    rows = place[f"{head}weight"].shape
    if not bodies or len(rows) != 2:
        raise _other_shapes(network, place, path)
    return rows[0]


def _whole(network: Classifier, stored: Any, path: Path) -> list[_Place]:
    """Where a file has all entries of the network and no others, whatever their shapes."""
    shapes = required(network)
    found = candidates(stored)
    if not found:
        raise UserError(
            f"Expected the checkpoint '{path}' to be {FORMATS}, but found {outline(stored)}"
        )
    places = [place for candidate in found for place in _places(candidate, shapes)]
    whole = [place for place in places if not place.missing() and not place.foreign()]
    if not whole:
        best = min(places, key=_distance, default=_Place(found[-1], "", shapes))
        raise _other_entries(network, best, stored, path)
    return whole


def _places(candidate: Candidate, shapes: Shapes) -> list[_Place]:
    counts = prefixes(candidate.state, shapes)
    whole = tuple(prefix for prefix, count in counts.items() if count == len(shapes))
    return [_Place(candidate, prefix, shapes, whole) for prefix in whole or counts]


def _distance(place: _Place) -> tuple[int, int]:
    return len(place.missing()), len(place.foreign())


def _chosen(fitting: list[_Place], path: Path) -> _Place:
    """The place of the lowest rank; its peers must hold the same weights."""
    ordered = sorted(fitting, key=lambda place: rank(place.where))
    first = ordered[0]
    for other in ordered[1:]:
        if rank(other.where) == rank(first.where) and not _same(first, other):
            raise UserError(
                f"Expected one set of weights in the checkpoint '{path}', but both "
                f"'{first.where}' and '{other.where}' fit the network; keep the one you mean in a "
                "file of its own: torch.save(..., path)"
            )
    return first


def _same(one: _Place, other: _Place) -> bool:
    pairs = ((one[name], other[name]) for name in one.shapes)
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def _converted(network: Classifier, place: _Place, path: Path) -> dict[str, Tensor]:
    state = {}
    for key, expected in network.state_dict().items():
        name = without_shells(key)
        if name not in place.shapes:  # a counter that only training reads
            count = place.state.get(place.prefix + name, torch.zeros(()))
            state[key] = (
                count.to(expected.dtype) if count.shape == expected.shape else 0 * expected
            )
            continue
        value = place[name]
        if not value.is_floating_point():
            raise UserError(
                f"Expected floating-point weights, but '{key}' in the checkpoint '{path}' is "
                f"{value.dtype}; save the network before it is quantised"
            )
        state[key] = value.to(expected.dtype)
        if not torch.isfinite(state[key]).all():
            raise UserError(
                f"Expected finite weights, but '{key}' in the checkpoint '{path}' holds NaN or "
                "inf; give an earlier checkpoint of its training"
            )
    return state


def _notes(place: _Place, fitting: list[_Place], path: Path) -> list[str]:
    notes = []
    rest = [other.where or "the file itself" for other in fitting if other is not place]
    if rest:
        taken = place.where or "the file itself"
        notes.append(f"Took '{taken}' of the checkpoint '{path}'; there is also {listed(rest, 4)}")
    front = place.normalisation()
    if front:
        notes.append(_normalising(place, front, path))
    left = [key for key in place.others() if key not in front]
    if left:
        names = listed(left, _MOST_NAMES)
        notes.append(f"Left out of the checkpoint '{path}', as no part of the network: {names}")
    return notes


def _normalising(place: _Place, front: tuple[str, ...], path: Path) -> str:
    mean, std = (place.state[key].double().flatten() for key in front)
    names = listed(front, 2)
    if not mean.any() and bool((std == 1).all()):
        return (
            f"Left out of the checkpoint '{path}': a normalisation that does nothing ({names}); "
            "dataset.mean and dataset.std must be those that its training data was normalised by"
        )
    if mean.max() > 2 or std.max() > 2:  # of pixels up to 255
        mean, std = mean / 255, std / 255
    written = [f"[{','.join(f'{x:.4g}' for x in v.expand(3).tolist())}]" for v in (mean, std)]
    return (
        f"The checkpoint '{path}' normalises images itself ({names}), which is left out: the data "
        f"set must do the same, with dataset.mean={written[0]} dataset.std={written[1]}"
    )


def _other_entries(network: Classifier, best: _Place, stored: Any, path: Path) -> UserError:
    missing, foreign = best.missing(), best.foreign()
    keys = outline(stored)
    return UserError(
        f"Expected the checkpoint '{path}' to be of a {type(network).__name__} with "
        f"{len(best.shapes)} entries, but {len(missing)} are missing and {len(foreign)} are "
        f"foreign (first: '{min(missing or foreign)}'); found {keys}; "
        f"{advice([c.state for c in candidates(stored)], network)}"
    )


def _other_shapes(network: Classifier, place: _Place, path: Path) -> UserError:
    head = f"{without_shells(network.head_name)}."
    body = [name for name in place.misshaped() if not name.startswith(head)]
    if body:
        name = body[0]
        return UserError(
            f"Expected '{name}' of shape {tuple(place.shapes[name])} in the checkpoint '{path}', "
            f"but got {tuple(place[name].shape)}; {advice([place.state], network)}"
        )
    name = place.misshaped()[0]
    wanted, got = place.shapes[name], place[name].shape
    if len(got) == len(wanted) and got[1:] == wanted[1:]:
        some = (
            ", or say which of its classes the data has: teacher.class_map=FILE with one line "
            "'class,column' for each"
        )
        return UserError(
            f"Expected the checkpoint '{path}' to have {wanted[0]} classes, but it has {got[0]}; "
            f"choose the matching dataset=...{some if got[0] > wanted[0] else ''}"
        )
    return UserError(
        f"Expected '{name}' of shape {tuple(wanted)} in the checkpoint '{path}', but got "
        f"{tuple(got)}; choose the matching teacher=..."
    )
