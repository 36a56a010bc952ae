"""InceptionV3 as published Fréchet distances use it, with weights that are given."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

import torch
from torch import Tensor, nn

from src.common.errors import MissingExtraError, UserError
from src.common.files import sha256_file
from src.teacher.read import read

DIM = 2048
"""Width of the features."""
_PUBLISHED = "pt_inception-2015-12-05-6726825d.pth"


class Inception(nn.Module):
    """Features before the last layer, ``[n, 2048]`` float32, of images ``[n, 3, H, W]`` uint8.

    Images are resized to 299 x 299 as TensorFlow 1 did it, which published values rest on.

    Args:
        path: File of the weights, safetensors or torch; nothing is ever downloaded.

    Attributes:
        facts: What its features depend on, JSON-able.

    Raises:
        MissingExtraError: If torch-fidelity is not installed.
        UserError: If the file cannot be read safely, or is of another network.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            from torch_fidelity import FeatureExtractorInceptionV3, __version__
        except ImportError as error:
            raise MissingExtraError("torch-fidelity", "fid", "leave out fid.weights") from error
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception", [str(DIM)], feature_extractor_weights_path=_rewritten(path)
            )
        except RuntimeError as error:  # of `load_state_dict`, a list of names
            raise _refusal(path, shorten(str(error), 200)) from error
        sha256 = sha256_file(path)
        self.facts = {
            "extractor": f"InceptionV3, weights {sha256[:8]}",
            "weights": {"name": path.name, "sha256": sha256},
            "resizing": f"bilinear to 299 x 299 as TensorFlow 1, torch-fidelity {__version__}",
        }

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        return cast("Tensor", self.network(images)[0])


def _rewritten(path: Path) -> BytesIO:
    """The tensors of a file, as a file in memory: what is given one would execute its code."""
    if not path.exists():
        raise UserError(
            f"Cannot find fid.weights='{path}'; expected a file of InceptionV3, such as "
            f"{_PUBLISHED} of pytorch-fid"
        )
    stored: Any = read(path)
    if not isinstance(stored, Mapping) or not all(map(torch.is_tensor, stored.values())):
        raise _refusal(path, "it holds more than named tensors")
    if not all(tensor.isfinite().all() for tensor in stored.values()):
        raise _refusal(path, "some of its weights are NaN or infinite")
    file = BytesIO()
    torch.save({str(name): tensor for name, tensor in stored.items()}, file)
    file.seek(0)
    return file


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(
        f"Cannot use '{path}' as fid.weights: {reason}; expected InceptionV3 as Fréchet distances "
        f"use it, such as {_PUBLISHED} of pytorch-fid"
    )
