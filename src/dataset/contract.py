"""What a data set promises to the rest of the program."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from src.common.augment import Augmentation
from src.dataset.decode import Geometry


@dataclass(frozen=True)
class ImageSpec:
    """Geometry and statistics of the images that a teacher expects.

    Attributes:
        num_classes: K, number of classes.
        image_size: Height and width, pixels.
        mean: Per-channel mean of the training images in [0, 1].
        std: Per-channel standard deviation of the training images in [0, 1].
        channels: Number of colour channels.
        augmentation: The training transform, of teacher and student alike.
    """

    num_classes: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int = 3
    augmentation: Augmentation = Augmentation(padding=4, flip_probability=0.5)


@dataclass(frozen=True)
class Split:
    """Labelled images, decoded.

    Attributes:
        images: ``[N, C, H, W]`` uint8.
        labels: ``[N]`` int64, in ``0..K-1``.
    """

    images: Tensor
    labels: Tensor


class Pool(ABC):
    """Unlabeled images that a sampler may draw on.

    Attributes:
        attribution: What the licence of the images asks to be said where they are shown.
    """

    name: ClassVar[str]
    attribution: ClassVar[str | None] = None

    @property
    @abstractmethod
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The pool's own per-channel mean and standard deviation in [0, 1]."""

    @abstractmethod
    def unlabeled(self, image_size: int) -> Tensor:
        """All images ``[N, 3, image_size, image_size]`` uint8, resized, in a fixed order."""

    def count(self) -> int | None:
        """How many images there are at most; None where only decoding them would tell."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Content hash of the data, for cache keys; equal content gives an equal hash."""

    def sources(self) -> Sequence[str | Path]:
        """Files and folders that the content depends on; a folder stands for the names within it.

        None where the data comes with a package.
        """
        return ()


class Dataset(Pool):
    """A labelled image data set, decoded to uint8 tensors; its train split can be a pool.

    Statistics, class names and image size live here and nowhere else. Reading is lazy: the
    constructor touches no file, so that a stage that needs no image reads none.
    """

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""

    @property
    @abstractmethod
    def spec(self) -> ImageSpec:
        """Geometry and statistics."""

    @cached_property
    def geometry(self) -> Geometry:
        """How an image file becomes one of this data set: straight to the square by default."""
        return Geometry(self.spec.image_size)

    @property
    def doubtful_order(self) -> str | None:
        """Two orders in which others may count the classes, in words; None where it is one."""
        return None

    @abstractmethod
    def train(self) -> Split:
        """The original training split; only the teacher may ask for it."""

    @abstractmethod
    def test(self) -> Split:
        """The test split, for evaluation."""

    def require_apart(self) -> None:
        """Refuse an image in both splits, where that was asked for; :meth:`train` does so, too."""

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The data set's own per-channel mean and standard deviation in [0, 1]."""
        return self.spec.mean, self.spec.std

    def unlabeled(self, image_size: int) -> Tensor:
        """The training images as a pool, resized with antialiasing where sizes differ."""
        images = self.train().images
        if images.shape[-1] == image_size:
            return images
        size = [image_size, image_size]
        return torch.cat([resize(part, size, antialias=True) for part in images.split(4096)])
