"""Substitution images in memory, indexed, augmented and normalised on the device."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from src.common.augment import Augmentation
from src.dataset.contract import ImageSpec
from src.dataset.normalisation import Normalisation
from src.substitution.row_store import RowStore


class ImageBank(RowStore):
    """A growing store of images.

    Pixels are kept as uint8, floor-quantised as if they had been written as PNG. Images that are
    no pixels (DAFL's whitened generator) are kept as float16 in the teacher's input space.

    Args:
        image_shape: ``(C, H, W)``.
        mean: Per-channel mean that the images are normalised with.
        std: Per-channel standard deviation that the images are normalised with.
        augmentation: What :meth:`batch` does to images on request.
        pixels: Whether images are pixels in [0, 1], or already in the teacher's input space.
        mapped_above: Size above which the bank is memory-mapped, bytes.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augmentation: Augmentation = Augmentation(),
        pixels: bool = True,
        mapped_above: int = 8 * 2**30,
    ) -> None:
        dtype = torch.uint8 if pixels else torch.float16
        super().__init__(image_shape, dtype, mapped_above=mapped_above)
        self.image_shape = image_shape
        self.augmentation, self.pixels = augmentation, pixels
        self.normalisation = Normalisation(mean, std)

    @classmethod
    def of(cls, spec: ImageSpec, **options: Any) -> Self:
        """An empty bank for pixels of the teacher's own data-set statistics."""
        shape = (spec.channels, spec.image_size, spec.image_size)
        return cls(shape, **({"mean": spec.mean, "std": spec.std} | options))

    @property
    def images(self) -> Tensor:
        """What is stored, ``[len, C, H, W]``, uint8 or float16."""
        return self.rows

    def append(self, images: Tensor) -> None:
        """Store ``[n, C, H, W]``: float pixels in [0, 1], stored uint8, or whitened images.

        Nothing here waits for the device; :meth:`require_finite` tells whether all were finite.
        """
        if self.pixels and images.is_floating_point():
            self._watch.update(images)  # NaN would become a byte like any other
            images = (images.detach().float().clamp(0, 1) * 255).floor()
        super().append(images)

    @property
    def _content(self) -> str:
        return "Images"

    @property
    def _cure(self) -> str:
        return "use trainer.precision=32-true"

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images ``[n, C, H, W]`` as the teacher expects them, float32, on this device.

        Args:
            index: Rows to take, ``[n]`` int64.
            generator: Source of the augmentation; None takes the images as they are.
        """
        images = self.take(index)
        if generator is not None:
            images = self.augmentation(images, generator)
        if not self.pixels:
            return images.float()
        return self.normalisation.from_uint8(images)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` augmented images, drawn uniformly with replacement."""
        index = torch.randint(self.length, (n,), generator=generator, device=generator.device)
        return self.batch(index, generator)

    def description(self) -> dict[str, Any]:
        """Everything but the images, JSON-able; the arguments of :meth:`load`."""
        return {
            "image_shape": list(self.image_shape),
            "mean": self.normalisation.mean.flatten().tolist(),
            "std": self.normalisation.std.flatten().tolist(),
            "augmentation": asdict(self.augmentation),
            "pixels": self.pixels,
            "mapped_above": self.mapped_above,
        }

    @classmethod
    def load(cls, path: Path, description: dict[str, Any]) -> Self:
        """A bank over a file of :meth:`save`; memory-mapped where it is large."""
        shape, augmentation = tuple(description["image_shape"]), dict(description["augmentation"])
        if augmentation["scale"] is not None:
            augmentation["scale"] = tuple(augmentation["scale"])
        made = {"image_shape": shape, "augmentation": Augmentation(**augmentation)}
        bank = cls(**{**description, **made})
        bank.read(path)
        return bank


def banks_of(module: nn.Module) -> dict[str, ImageBank]:
    """All banks within ``module``, by the names of their files."""
    found = (child for child in module.modules() if isinstance(child, ImageBank))
    return {f"bank{position}": bank for position, bank in enumerate(found)}


def stores_of(module: nn.Module) -> dict[str, RowStore]:
    """All stores within ``module`` that are no banks of images, by the names of their files."""
    found = (child for child in module.modules() if isinstance(child, RowStore))
    others = (store for store in found if not isinstance(store, ImageBank))
    return {f"store{position}": store for position, store in enumerate(others)}


def files_of(module: nn.Module) -> dict[str, RowStore]:
    """All that :func:`banks_of` and :func:`stores_of` find."""
    return {**banks_of(module), **stores_of(module)}
