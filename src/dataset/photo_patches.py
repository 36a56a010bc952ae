"""An unlabeled pool that needs no download: patches of two photographs.

Source: scikit-learn's sample images, both under CC BY 2.0
(https://creativecommons.org/licenses/by/2.0/): ``china.jpg``, by danielbuechele
(https://www.flickr.com/photos/danielbuechele/6061409035/), and ``flower.jpg``, by vultilion
(https://www.flickr.com/photos/vultilion/6056698931/). The patches are cropped, resized, and by
default turned to grey and stretched in contrast.
"""

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize, rgb_to_grayscale

from src.common.errors import UserError
from src.common.files import content_hash
from src.dataset.contract import Pool
from src.dataset.statistics import Channels, measure

# A geometric series: every octave of scale gets the same number of patches.
_SIDES = (16, 20, 25, 32, 40, 50, 64, 80, 100, 128, 160, 200)
_CHUNK_PIXELS = 2**22


class PhotoPatches(Pool):
    """Square patches of many sizes at random places, resized to one size.

    Args:
        num_images: Number of patches.
        seed: Seed of places and sizes.
        grey: Grey patches, repeated over the channels; without, colour.
        stretch: Stretch every patch to the full range of values.
    """

    name: ClassVar[str] = "photo_patches"
    attribution: ClassVar[str | None] = (
        "Patches of china.jpg by danielbuechele and flower.jpg by vultilion (flickr.com, "
        "CC BY 2.0), cropped, resized, grey, contrast stretched"
    )

    def __init__(
        self,
        *,
        num_images: int = 20_000,
        seed: int = 0,
        grey: bool = True,
        stretch: bool = True,
    ) -> None:
        if num_images < 1:
            raise UserError(f"Expected `num_images` >= 1, but got {num_images}")
        self.num_images = num_images
        self.seed = seed
        self.grey = grey
        self.stretch = stretch

    @cached_property
    def statistics(self) -> tuple[Channels, Channels]:
        """The pool's own per-channel mean and standard deviation in [0, 1], at 32 pixels."""
        return measure(self.unlabeled(32))

    def unlabeled(self, image_size: int) -> Tensor:
        """All patches ``[N, 3, image_size, image_size]`` uint8; places depend on no size."""
        photographs = self._photographs()
        which, places = self._draw(photographs)
        patches = torch.empty(self.num_images, 3, image_size, image_size, dtype=torch.uint8)
        for number, photograph in enumerate(photographs):
            for level, side in enumerate(_SIDES):
                chosen = (which == torch.tensor([number, level])).all(dim=1).nonzero().flatten()
                for index in chosen.split(max(1, _CHUNK_PIXELS // max(side, image_size) ** 2)):
                    cut = _cut(photograph, side, places[index])
                    patches[index] = self._finish(cut, image_size)
        return patches

    def count(self) -> int:
        """How many patches there are."""
        return self.num_images

    def fingerprint(self) -> str:
        """Hash of the options: with the photographs they fix every patch."""
        return content_hash([self.name, self.num_images, self.seed, self.grey, self.stretch])

    def _photographs(self) -> list[Tensor]:
        # Imported here: scikit-learn takes seconds and memory that other pools do not need.
        from sklearn.datasets import load_sample_images

        photographs = [torch.tensor(p).permute(2, 0, 1) for p in load_sample_images().images]
        return [rgb_to_grayscale(p) if self.grey else p for p in photographs]

    def _draw(self, photographs: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Photograph and level of size ``[N, 2]``, and place in [0, 1) ``[N, 2]``."""
        source = torch.Generator().manual_seed(self.seed)
        bounds = (len(photographs), len(_SIDES))
        columns = [torch.randint(n, (self.num_images,), generator=source) for n in bounds]
        return torch.stack(columns, dim=1), torch.rand(self.num_images, 2, generator=source)

    def _finish(self, cut: Tensor, image_size: int) -> Tensor:
        patches: Tensor = resize(cut.float(), [image_size, image_size], antialias=True)
        if self.stretch:
            low, high = (f(patches, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
            # At least one grey level apart, so that a flat patch stays flat.
            patches = (patches - low) * (255 / (high - low).clamp(min=1))
        return patches.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)


def _cut(photograph: Tensor, side: int, places: Tensor) -> Tensor:
    """Patches ``[n, C, side, side]`` of ``[C, H, W]`` at ``places`` ``[n, 2]`` in [0, 1)."""
    windows = photograph.unfold(1, side, 1).unfold(2, side, 1)  # a view: [C, rows, columns, s, s]
    room = torch.tensor(windows.shape[1:3])
    rows, columns = (places * room).long().unbind(dim=1)
    return windows[:, rows, columns].transpose(0, 1)
