"""A pool of known shift: where the right answer to "does de-confounding help?" is known."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from src.common.errors import UserError
from src.common.files import content_hash
from src.common.seeding import generator
from src.dataset.contract import Dataset, Pool
from src.dataset.statistics import Channels, measure


class ControlledPool(Pool):
    """Training images of a data set without their labels, cut to known class shares and quality.

    Class c of K has a share in proportion to ``class_ratio ** (-c / (K - 1))``: the first class
    is ``class_ratio`` times as frequent as the last. The number of images is the same for every
    ratio, so that only the shares differ. For experiments: labels are read to cut the pool, as
    nobody could who has no data.

    Args:
        of: Data set whose training images are used.
        num_images: Images of the pool.
        class_ratio: Of the most frequent to the rarest class; 1 is even.
        blur: Standard deviation of a Gaussian blur, pixels; 0 leaves images sharp.
        noise: Standard deviation of Gaussian noise, in grey levels of 0 to 255.
        foreign: Share of images in the place of which those of ``other`` stand.
        other: Where these come from.
        seed: Which images of a class are taken, and the noise.

    Raises:
        UserError: If a class has fewer images than its share needs, or ``foreign`` has no
            ``other``.
    """

    name: ClassVar[str] = "controlled"

    def __init__(
        self,
        *,
        of: Dataset,
        num_images: Annotated[int, Field(gt=0)],
        class_ratio: Annotated[float, Field(ge=1)] = 1.0,
        blur: Annotated[float, Field(ge=0)] = 0.0,
        noise: Annotated[float, Field(ge=0)] = 0.0,
        foreign: Annotated[float, Field(ge=0, le=1)] = 0.0,
        other: Pool | None = None,
        seed: int = 0,
    ) -> None:
        if foreign and other is None:
            raise UserError(f"Expected pool.other with pool.foreign={foreign}, but got none")
        self.of, self.num_images, self.class_ratio = of, num_images, class_ratio
        self.blur, self.noise, self.seed = blur, noise, seed
        self.foreign, self.other = foreign, other
        self.attribution = other.attribution if other and foreign else None  # type: ignore[misc]

    @cached_property
    def statistics(self) -> tuple[Channels, Channels]:
        """The pool's own per-channel mean and standard deviation in [0, 1], at 32 pixels."""
        return measure(self.unlabeled(32))

    def unlabeled(self, image_size: int) -> Tensor:
        """All images ``[N, 3, image_size, image_size]`` uint8, in an order without classes."""
        images = self.of.unlabeled(image_size)[self._chosen()]
        if self.blur:
            # Reflected at the borders, which an image can be only once.
            side = 2 * min(round(3 * self.blur), image_size - 1) + 1
            images = gaussian_blur(images, [side, side], [self.blur, self.blur])
        if self.noise:
            draws = generator("cpu", self.seed, "controlled pool", "noise")
            noise = torch.randn(images.shape, generator=draws) * self.noise
            images = (images + noise).round().clamp(0, 255).to(torch.uint8)
        return self._with_foreign(images, image_size)

    def _chosen(self) -> Tensor:
        """Rows of the training images."""
        labels, counts = self.of.train().labels, self._counts()
        draws = generator("cpu", self.seed, "controlled pool")
        chosen = []
        for label, count in enumerate(counts):
            rows = (labels == label).nonzero()[:, 0]
            if count > len(rows):
                either = " or pool.class_ratio" if self.class_ratio > 1 else ""
                raise UserError(
                    f"Expected at least {count} training images of class {label} for "
                    f"pool.class_ratio={self.class_ratio:g} and pool.num_images="
                    f"{self.num_images}, but got {len(rows)}; lower pool.num_images{either}"
                )
            chosen.append(rows[torch.randperm(len(rows), generator=draws)[:count]])
        everything = torch.cat(chosen)
        return everything[torch.randperm(len(everything), generator=draws)]

    def _counts(self) -> list[int]:
        """Images of each class, adding up to ``num_images``: largest remainders are rounded up."""
        num_classes = self.of.spec.num_classes
        places = torch.arange(num_classes).double() / max(1, num_classes - 1)
        shares = self.class_ratio**-places
        wanted = shares / shares.sum() * self.num_images
        counts = wanted.floor().long()
        missing = self.num_images - int(counts.sum())
        counts[(wanted - counts).argsort(descending=True, stable=True)[:missing]] += 1
        return [int(count) for count in counts]

    def _with_foreign(self, images: Tensor, image_size: int) -> Tensor:
        """Images are in random order: the first ones are as good as any."""
        count = round(self.foreign * len(images))
        if not count or self.other is None:
            return images
        foreign = self.other.unlabeled(image_size)
        if count > len(foreign):
            raise UserError(
                f"Expected at least {count} images in pool.other for pool.foreign="
                f"{self.foreign:g}, but got {len(foreign)}; lower it or pool.num_images"
            )
        draws = generator("cpu", self.seed, "controlled pool", "foreign")
        rows = torch.randperm(len(foreign), generator=draws)[:count]
        return torch.cat([foreign[rows], images[count:]])

    def count(self) -> int:
        """The number of images, without reading them.

        Raises:
            UserError: If there are fewer to take them from; of every class, only reading tells.
        """
        found = self.of.count()
        if found is not None and self.num_images > found:
            raise UserError(
                f"Expected pool.num_images <= number of training images of pool.of, but got "
                f"{self.num_images} > {found}; lower pool.num_images"
            )
        return self.num_images

    def fingerprint(self) -> str:
        """Hash of the options and of what the images are taken from."""
        other = self.other.fingerprint() if self.other and self.foreign else None
        options = (self.num_images, self.class_ratio, self.blur, self.noise, self.foreign)
        return content_hash([self.name, *options, self.seed, self.of.fingerprint(), other])

    def sources(self) -> Sequence[str | Path]:
        """Those of what it is made of."""
        other = self.other.sources() if self.other and self.foreign else ()
        return [*self.of.sources(), *other]
