"""Substitution images in memory, indexed, augmented and normalised on the device."""

import tempfile
from copy import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from src.common.augment import Augmentation
from src.common.finite import FiniteWatch
from src.dataset.contract import ImageSpec
from src.dataset.normalisation import Normalisation

_FIRST_ROWS = 1024


class ImageBank(nn.Module):
    """A growing store of images.

    Pixels are kept as uint8, floor-quantised as if they had been written as PNG. Images that are
    no pixels (DAFL's whitened generator) are kept as float16 in the teacher's input space.
    The bank lives on its module's device; above ``mapped_above`` bytes it is a memory-mapped
    file instead. Its images are outside ``state_dict``, which holds only their number: they are
    saved by :meth:`sync` or :meth:`save`, each bank in its own file.

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
        super().__init__()
        self.image_shape = image_shape
        self.augmentation, self.pixels, self.mapped_above = augmentation, pixels, mapped_above
        self.normalisation = Normalisation(mean, std)
        self.dtype = torch.uint8 if pixels else torch.float16
        self.length = 0
        self._synced, self._synced_to, self._digest = 0, Path(), xxhash.xxh3_128()
        self._is_mapped = False
        self._watch = FiniteWatch()
        self._images = torch.empty(0, *image_shape, dtype=self.dtype)

    @classmethod
    def of(cls, spec: ImageSpec, **options: Any) -> Self:
        """An empty bank for pixels of the teacher's own data-set statistics."""
        shape = (spec.channels, spec.image_size, spec.image_size)
        return cls(shape, **({"mean": spec.mean, "std": spec.std} | options))

    def __len__(self) -> int:
        return self.length

    @property
    def images(self) -> Tensor:
        """What is stored, ``[len, C, H, W]``, uint8 or float16."""
        return self._images[: self.length]

    @property
    def device(self) -> torch.device:
        """Where batches are made."""
        return self.normalisation.mean.device

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not self._is_mapped:
            self._images = self._images.to(self.device)
        return self

    def _reserve(self, rows: int) -> None:
        if rows <= len(self._images):
            return
        capacity = max(rows, 2 * len(self._images), _FIRST_ROWS)
        row_bytes = int(np.prod(self.image_shape)) * self.dtype.itemsize
        self._is_mapped = capacity * row_bytes > self.mapped_above
        if self._is_mapped:
            with tempfile.NamedTemporaryFile(prefix="image_bank_") as file:
                size = capacity * int(np.prod(self.image_shape))
                flat = torch.from_file(file.name, shared=True, size=size, dtype=self.dtype)
            grown = flat.view(capacity, *self.image_shape)
        else:
            grown = torch.empty(capacity, *self.image_shape, dtype=self.dtype, device=self.device)
        grown[: self.length] = self.images
        self._images = grown

    def append(self, images: Tensor) -> None:
        """Store ``[n, C, H, W]``: float pixels in [0, 1], stored uint8, or whitened images.

        Nothing here waits for the device; :meth:`require_finite` tells whether all were finite.
        """
        if self.pixels and images.is_floating_point():
            self._watch.update(images)  # NaN would become a byte like any other
            images = (images.detach().float().clamp(0, 1) * 255).floor()
        stored = images.detach().to(self.dtype)
        if not self.pixels:
            self._watch.update(stored)
        self._reserve(self.length + len(images))
        self._images[self.length : self.length + len(images)] = stored
        self.length += len(images)

    def require_finite(self, what: str) -> None:
        """Make sure that every image appended by this process was one.

        Args:
            what: Who made the images, for the message.

        Raises:
            FloatingPointError: If one held NaN, infinity or a value beyond half precision.
        """
        if not self._watch.is_clean():
            beyond = "" if self.pixels else " or exceed half precision (65504)"
            raise FloatingPointError(
                f"Images of {what} are NaN or infinite{beyond}; nothing was saved after them. "
                "Lower its learning rate, or use trainer.precision=32-true"
            )

    def adopt(self, other: "ImageBank") -> None:
        """Forget everything and share the images of another bank of the same shape instead."""
        self._images, self._is_mapped = other.images, other._is_mapped
        self.length, self._synced = len(other), 0
        self._watch = copy(other._watch)

    def batch(self, index: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Images ``[n, C, H, W]`` as the teacher expects them, float32, on this device.

        Args:
            index: Rows to take, ``[n]`` int64.
            generator: Source of the augmentation; None takes the images as they are.
        """
        images = self._images[index.to(self._images.device)].to(self.device)
        if generator is not None:
            images = self.augmentation(images, generator)
        if not self.pixels:
            return images.float()
        return self.normalisation.from_uint8(images)

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` augmented images, drawn uniformly with replacement."""
        index = torch.randint(self.length, (n,), generator=generator, device=generator.device)
        return self.batch(index, generator)

    def get_extra_state(self) -> dict[str, int]:
        """The committed number of images."""
        return {"length": self.length}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Announce how many images :meth:`restore` will read."""
        self._reserve(state["length"])
        self.length = state["length"]

    def sync(self, path: Path) -> tuple[str, int]:
        """Append what is new since the last call to the raw file ``path``.

        Returns:
            XXH3 of all bytes that count, and their number.
        """
        # Stages (a) and (b) each have a file of their own; what was adopted is written anew.
        if path != self._synced_to or not self._synced:
            self._synced, self._synced_to, self._digest = 0, path, xxhash.xxh3_128()
        row_bytes = int(np.prod(self.image_shape)) * self.dtype.itemsize
        with path.open("r+b" if self._synced else "wb") as file:
            file.truncate(self._synced * row_bytes)
            file.seek(0, 2)
            added = self.images[self._synced :].cpu().numpy().tobytes()
            file.write(added)
            file.flush()
        self._digest.update(added)
        self._synced = self.length
        return self._digest.hexdigest(), self.length * row_bytes

    def restore(self, path: Path) -> None:
        """Read the committed images back from a raw file of :meth:`sync`."""
        stored = np.fromfile(
            path,
            dtype=np.uint8 if self.pixels else np.float16,
            count=self.length * int(np.prod(self.image_shape)),
        )
        self._images[: self.length] = torch.from_numpy(stored).view(-1, *self.image_shape)
        self._synced, self._synced_to = self.length, path
        self._digest = xxhash.xxh3_128(stored.data)

    def save(self, path: Path) -> None:
        """Write the images as ``.npy``."""
        np.save(path, self.images.cpu().numpy(), allow_pickle=False)

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
        bank._is_mapped = path.stat().st_size > bank.mapped_above
        stored = np.load(path, mmap_mode="c" if bank._is_mapped else None, allow_pickle=False)
        bank._images = torch.from_numpy(stored)
        bank.length = len(stored)
        return bank


def banks_of(module: nn.Module) -> dict[str, ImageBank]:
    """All banks within ``module``, by the names of their files."""
    found = (child for child in module.modules() if isinstance(child, ImageBank))
    return {f"bank{position}": bank for position, bank in enumerate(found)}
