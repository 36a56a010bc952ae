"""The deployed student: weights as safetensors beside a small JSON card."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from src.common.errors import UserError
from src.common.files import atomic_write
from src.common.sealed import digests, read_sealed, verify, write_sealed
from src.dataset.normalisation import Normalisation
from src.network.classifier import Classifier
from src.teacher.checkpoint import load_into

_CARD, _WEIGHTS = "student.json", "student.safetensors"


def export_student(
    folder: Path, network: Classifier, card: dict[str, Any], fuse: torch.Tensor | None = None
) -> None:
    """Write ``student.safetensors`` and ``student.json`` into ``folder``.

    Args:
        folder: Where to.
        network: The trained student.
        card: JSON-able; ``architecture`` (the network's config), ``class_names``,
            ``normalisation``, ``accuracy``, and how it was made.
        fuse: W_h ``[K, K]`` of ``kdci.fusion=linear``, folded into the last layer.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    if fuse is not None:
        fuse = fuse.detach().cpu()
        for part in ("weight", "bias"):
            key = f"{network.head_name}.{part}"
            state[key] = (fuse @ state[key]).contiguous()
    with atomic_write(folder / _WEIGHTS) as temporary:
        save_file(state, temporary)
    write_sealed(folder / _CARD, card | {"checksums": digests(folder, [_WEIGHTS])})


def build_network(architecture: dict[str, Any], num_classes: int) -> Classifier:
    """The network of a config node ``{_target_: src.network..., ...}``, untrained.

    Raises:
        UserError: If the target is no network of this project: a card must not choose what runs.
    """
    options = dict(architecture)
    module, _, name = str(options.pop("_target_", "")).rpartition(".")
    found = None
    if module.startswith("src.network."):
        found = getattr(import_module(module), name, None)
    if not (isinstance(found, type) and issubclass(found, Classifier)):
        raise UserError(f"Expected an architecture of src.network, but got '{module}.{name}'")
    return found(num_classes=num_classes, **options)


class DeployedStudent(nn.Module):
    """A student that takes pixels.

    Attributes:
        network: The classifier, in eval mode.
        card: What ``student.json`` says.
    """

    def __init__(self, network: Classifier, card: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.card = network.eval(), card
        statistics = card["normalisation"]
        self.normalisation = Normalisation(tuple(statistics["mean"]), tuple(statistics["std"]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, K]`` of ``images`` ``[B, C, H, W]``: uint8, or float in [0, 1]."""
        if images.dtype == torch.uint8:
            return self.network(self.normalisation.from_uint8(images))  # type: ignore[no-any-return]
        return self.network(self.normalisation(images))  # type: ignore[no-any-return]


def load_student(folder: Path | str) -> DeployedStudent:
    """Load what :func:`export_student` wrote.

    Example: ``student = load_student("outputs/digits_dafl_backdoor/<hash>")``.

    Raises:
        UserError: If a file is missing or not as it was written.
    """
    path = Path(folder) / _CARD
    try:
        card = read_sealed(path)
        verify(Path(folder), card["checksums"])
        network = build_network(card["architecture"], len(card["class_names"]))
        student = DeployedStudent(network, card)
    except (OSError, ImportError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"Cannot use the student in '{folder}' ({error}); expected the folder of a finished "
            "run: run its command again, with force=true if need be"
        ) from error
    load_into(network, Path(folder) / _WEIGHTS)
    return student
