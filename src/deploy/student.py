"""The deployed student: from a run's folder to predictions, with torch and Pillow alone."""

from collections.abc import Sequence
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from src.common.errors import MissingExtraError, UserError, in_one_line
from src.common.package import NAME
from src.common.plugins import is_within, refuse_unfit_plugins
from src.common.sealed import read_sealed, verify
from src.dataset.decode import UNREADABLE, Geometry, decode_image, pixels_of, require_regular
from src.dataset.normalisation import Normalisation
from src.network.classifier import Classifier

CARD, WEIGHTS = "student.json", "student.safetensors"
ImageLike = Image.Image | np.ndarray[Any, Any] | str | PathLike[str]
_BATCH = 64
_NAMES = ("src", "kdci")  # of this program, in a clone and in a wheel
# What else but a DamagedError comes of a card or of weights that are not a student's.
_UNUSABLE = (
    OSError,
    ImportError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
    RuntimeError,  # of torch, for entries of another network
)


class NotAllowedError(UserError):
    """An architecture of a package that nobody has allowed."""


class DeployedStudent(nn.Module):
    """A student that takes pixels.

    Attributes:
        network: The classifier, in eval mode, without gradients.
        card: What ``student.json`` says.
        geometry: How an image of any size becomes one of the student's.
    """

    def __init__(self, network: Classifier, card: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.card = network.eval().requires_grad_(False), card
        self.geometry = Geometry(card["image_size"], card["shorter_side"])
        statistics = card["normalisation"]
        self.normalisation = Normalisation(tuple(statistics["mean"]), tuple(statistics["std"]))

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, K]`` of ``images`` ``[B, C, H, W]``: uint8, or float in [0, 1].

        Raises:
            UserError: If the images are of another shape, type or range.
        """
        self._require_shape(images)
        if images.dtype == torch.uint8:
            return self.network(self.normalisation.from_uint8(images))  # type: ignore[no-any-return]
        _require_range(images)
        return self.network(self.normalisation(images.to(self.normalisation.mean)))  # type: ignore[no-any-return]

    def pixels(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """Images as the test split of the run had them, ``[B, C, size, size]`` uint8.

        Args:
            images: One or several of any size: Pillow images, paths, or arrays ``[H, W, 3]`` of
                uint8.

        Raises:
            UserError: If one cannot be read.
        """
        several = _listed(images)
        if not several:
            raise UserError("Expected at least one image, but got an empty list")
        return torch.stack([_pixels(image, self.geometry) for image in several])

    @torch.no_grad()
    def predict(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """Probabilities ``[B, K]``, in the order of ``card["class_names"]``.

        Args:
            images: As :meth:`pixels` takes them; one is a batch of one.

        Raises:
            UserError: If one cannot be read.
        """
        several = _listed(images)
        parts = [several[start : start + _BATCH] for start in range(0, len(several), _BATCH)]
        return torch.cat([self.probabilities(self.pixels(part)) for part in parts or [several]])

    @torch.no_grad()
    def probabilities(self, pixels: Tensor) -> Tensor:
        """Probabilities ``[B, K]`` of what :meth:`forward` takes, on the student's device."""
        return self(pixels.to(self.normalisation.mean.device)).softmax(dim=1)  # type: ignore[no-any-return]

    def _require_shape(self, images: Tensor) -> None:
        size = self.geometry.size
        expected = (self.normalisation.mean.shape[1], size, size)
        if images.dim() == 4 and images.shape[1:] == expected:
            return
        if images.shape == expected:
            cure = "for one image pass images[None]"
        elif images.dim() == 4 and images.shape[3] == expected[0]:
            cure = "permute(0, 3, 1, 2) puts the channels first"
        else:
            cure = "predict() resizes files, Pillow images and arrays as the run did"
        shape = ", ".join(map(str, expected))
        raise UserError(f"Expected images [B, {shape}], but got {list(images.shape)}; {cure}")


def load_student(folder: Path | str, plugins: Sequence[str] = ()) -> DeployedStudent:
    """Load the student of a finished run.

    Example: ``student = load_student("outputs/digits_dafl_backdoor/<hash>")``.

    Args:
        folder: Of the run.
        plugins: Packages of other people that its network may come from.

    Raises:
        UserError: If a file is missing or not as it was written, or the network is of a package
            that is not allowed.
    """
    folder = Path(folder)
    refuse_unfit_plugins(plugins)
    try:
        card = read_sealed(folder / CARD)
        verify(folder, card["checksums"])
        network = build_network(card["architecture"], len(card["class_names"]), plugins)
        network.load_state_dict(load_file(folder / WEIGHTS))
        return DeployedStudent(network, card)
    except MissingExtraError:  # whose cure is its own
        raise
    except NotAllowedError as error:
        raise UserError(f"Cannot use the student in '{folder}': {error}") from error
    except _UNUSABLE as error:
        raise _unusable(folder, error) from error


def build_network(
    architecture: dict[str, Any], num_classes: int, plugins: Sequence[str] = ()
) -> Classifier:
    """The network of a config node ``{_target_: src.network..., ...}``, untrained.

    Raises:
        UserError: If the target is no network of this project, or of an allowed package: a card
            must not choose what runs.
    """
    options = dict(architecture)
    target = here(str(options.pop("_target_", "")), plugins)
    module, _, name = target.rpartition(".")
    allowed = ("src.network", *plugins)
    refused = f"Expected an architecture of {', '.join(allowed)}, but got '{target}'"
    package = module.partition(".")[0]
    if not is_within(target, allowed) and package not in ("", NAME):
        raise NotAllowedError(
            f"{refused}; if you trust its code, allow it: plugins=['{package}'] of load_student, "
            f"or --plugin {package}"
        )
    found = getattr(import_module(module), name, None) if is_within(target, allowed) else None
    if not (isinstance(found, type) and issubclass(found, Classifier)):
        raise UserError(refused)
    return found(num_classes=num_classes, **options)


def here(target: str, plugins: Sequence[str]) -> str:
    """A class of ours as it is called here: a clone and a wheel read each other's cards."""
    package, _, rest = target.partition(".")
    is_ours = package in _NAMES and package not in plugins
    return f"{NAME}.{rest}" if is_ours else target


def _unusable(folder: Path, error: BaseException) -> UserError:
    reason = in_one_line(error)
    cure = (
        "expected the folder of a finished run: run its command again, with force=true if need be"
    )
    if isinstance(error, KeyError):
        reason = f"its card has no {reason}"
    if isinstance(error, ImportError) and error.name == "torchvision":
        cure = "its network is torchvision's: pip install torchvision"
    return UserError(f"Cannot use the student in '{folder}' ({reason}); {cure}")


def _require_range(images: Tensor) -> None:
    if not images.is_floating_point():
        kind = str(images.dtype).removeprefix("torch.")
        raise UserError(
            f"Expected images as uint8 or as floats in [0, 1], but got {kind}; for values in "
            "0..255 pass images.to(torch.uint8)"
        )
    if bool(images.isnan().any()):
        raise UserError("Expected floats in [0, 1], but some are NaN; mend what computes them")
    if images.numel() and bool((images.min() < 0) | (images.max() > 1)):
        low, high = images.min().item(), images.max().item()
        raise UserError(
            f"Expected floats in [0, 1], but got {low:.4g} to {high:.4g}; divide values of 0..255 "
            "by 255, and do not normalise: the student does"
        )


def _listed(images: ImageLike | Sequence[ImageLike]) -> list[ImageLike]:
    one = isinstance(images, Image.Image | np.ndarray | str | PathLike)
    return [cast("ImageLike", images)] if one else list(cast("Sequence[ImageLike]", images))


def _pixels(image: ImageLike, geometry: Geometry) -> Tensor:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(
                f"Expected an array [H, W, 3] of uint8, but got {list(image.shape)} of "
                f"{image.dtype}; PIL.Image takes grey and transparent ones"
            )
        image = Image.fromarray(image)
    try:
        if isinstance(image, Image.Image):
            return torch.from_numpy(pixels_of(image, geometry))
        require_regular(Path(image))
        return torch.from_numpy(decode_image(Path(image), geometry))
    except UNREADABLE as error:
        name = "an image" if isinstance(image, Image.Image) else f"the image '{image}'"
        raise UserError(f"Cannot read {name} ({error}); replace it or leave it out") from error
