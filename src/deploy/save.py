"""Write the student for deployment: weights as safetensors beside a small JSON card."""

from pathlib import Path
from typing import Any

import torch

from src.common.files import atomic_write
from src.common.sealed import digests, write_sealed
from src.common.tensors import save_tensors
from src.deploy.student import CARD, WEIGHTS
from src.network.classifier import Classifier


def save_student(
    folder: Path, network: Classifier, card: dict[str, Any], fuse: torch.Tensor | None = None
) -> None:
    """Write ``student.safetensors`` and ``student.json`` into ``folder``.

    Args:
        folder: Where to.
        network: The trained student.
        card: JSON-able; ``architecture`` (the network's config), ``class_names``, ``image_size``
            and ``shorter_side`` (see :class:`src.dataset.decode.Geometry`), ``normalisation``,
            ``accuracy``, and how it was made.
        fuse: W_h ``[K, K]`` of ``kdci.fusion=linear``, folded into the last layer.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    if fuse is not None:
        fuse = fuse.detach().cpu()
        for part in ("weight", "bias"):
            key = f"{network.head_name}.{part}"
            if key in state:  # a last layer may have no bias
                state[key] = (fuse @ state[key]).contiguous()
    with atomic_write(folder / WEIGHTS) as temporary:
        save_tensors(state, temporary)
    write_sealed(folder / CARD, card | {"checksums": digests(folder, [WEIGHTS])})
