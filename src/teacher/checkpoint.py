"""A teacher's weights: loaded from any file, and written and found again as our own."""

import logging
from pathlib import Path

from safetensors.torch import save_file

from src.common.files import atomic_write
from src.common.sealed import digests, read_own, verify, write_sealed
from src.network.classifier import Classifier
from src.teacher.fit import fit
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
    state, notes = fit(network, read(path), path)
    network.load_state_dict(state)
    for note in () if quiet else notes:
        _log.info("%s", note)


def save_trained(network: Classifier, folder: Path, acc1: float, name: str) -> None:
    """Write a trained teacher: ``teacher.safetensors``, and last ``teacher.json``."""
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    with atomic_write(folder / _WEIGHTS) as temporary:
        save_file(state, temporary)
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
