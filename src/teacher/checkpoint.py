"""A teacher's weights: loaded from any file, and written and found again as our own."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from src.common.files import atomic_write
from src.common.sealed import digests, read_own, verify, write_sealed
from src.common.tensors import save_tensors
from src.network.classifier import Classifier
from src.teacher.class_map import keep_columns, read_columns
from src.teacher.fit import count_classes, fit
from src.teacher.read import read

_WEIGHTS, _CARD = "teacher.safetensors", "teacher.json"
_log = logging.getLogger(__name__)


def load_into(network: Classifier, path: Path, *, quiet: bool = False) -> None:
    """Load the weights of a file into ``network``, all of them or none.

    Args:
        network: Gets the weights, in its own precision.
        path: Safetensors or a torch file, as training programs write them.
        quiet: Whether to keep what was left out or chosen from the log.

    Raises:
        UserError: If the file cannot be read safely, or its weights are of another architecture
            or class count, or not finite; the message names the cure.
    """
    _load(network, read(path), path, quiet=quiet)


def load_given(
    make: Callable[[int], Classifier],
    path: Path,
    class_names: Sequence[str],
    class_map: Path | None,
    *,
    quiet: bool = False,
) -> Classifier:
    """A network with the weights of a file and one output for each class.

    Args:
        make: An untrained network of so many classes.
        path: The file, see :func:`load_into`.
        class_names: Names of the classes, in label order.
        class_map: Which outputs they are, of a network with more; None where it has as many.
        quiet: Whether to keep what was left out or chosen from the log.

    Raises:
        UserError: If the file does not fit, or the class map does not; see
            :func:`src.teacher.class_map.read_columns`.
    """
    network, stored = make(len(class_names)), read(path)
    if class_map is None:
        _load(network, stored, path, quiet=quiet)
        return network
    outputs = count_classes(network, stored, path)
    columns = read_columns(class_map, class_names, outputs)
    network = make(outputs)
    _load(network, stored, path, quiet=quiet)
    keep_columns(network, columns)
    if not quiet:
        _log.info("Kept %d of the teacher's %d outputs", len(columns), outputs)
    return network


def _load(network: Classifier, stored: Any, path: Path, *, quiet: bool) -> None:
    state, notes = fit(network, stored, path)
    network.load_state_dict(state)
    for note in () if quiet else notes:
        _log.info("%s", note)


def save_trained(network: Classifier, folder: Path, acc1: float, name: str) -> None:
    """Write a trained teacher: ``teacher.safetensors``, and last ``teacher.json``."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_write(folder / _WEIGHTS) as temporary:
        save_tensors(state, temporary)
    checksums = digests(folder, [_WEIGHTS])
    card = {"of": folder.name, "name": name, "acc1": acc1, "checksums": checksums}
    write_sealed(folder / _CARD, card)


def load_trained(network: Classifier, folder: Path) -> float | None:
    """Load what :func:`save_trained` wrote and return its test accuracy; None if it is absent.

    Raises:
        DamagedError: If it is there but not as it was written.
    """
    if not (folder / _CARD).exists():
        return None
    card = read_own(folder / _CARD, folder.name)
    verify(folder, card["checksums"])
    load_into(network, folder / _WEIGHTS)
    return float(card["acc1"])
