"""Any data set laid out as ``{train,test}/<class>/*``."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar, Literal

from src.common.errors import UserError
from src.common.files import content_hash, sha256_tensors
from src.common.provenance import source_hash
from src.dataset.cache import DECODER, Decoded, remember
from src.dataset.contract import ImageSpec, Split
from src.dataset.decode import Geometry
from src.dataset.folder_dataset import FolderDataset, SplitName
from src.dataset.layout import wrong_layout
from src.dataset.listing import ImageFiles, class_folders, files_by_class, natural, some
from src.dataset.statistics import Channels, checked, measure

_log = logging.getLogger(__name__)


class ImageFolder(FolderDataset):
    """Your own images: ``train/<class>/**`` and ``test/<class>/**``.

    Args:
        root: Folder that holds ``train`` and ``test``, or what :mod:`src.dataset.layout` takes for
            them; it may also be a folder or two above.
        cache_dir: Root of all caches.
        image_size: Height and width of the decoded images, pixels.
        keep_aspect: Resize the shorter side and cut out the centre, or resize to the square.
        mean: Per-channel mean in [0, 1] of the teacher's input; ``None``: of the train split.
        std: Per-channel standard deviation in [0, 1]; ``None``: of the train split.
        allow_overlap: Only warn when an image is in both splits.
        skip_corrupt: Leave unreadable images out instead of failing.
        order: Of the class folders, which is that of the labels: ``name``, by character as
            torchvision has it ("10" before "2"), or ``natural``, numbers by their value;
            ``None``: ``name``, where no given teacher may have meant the other.
    """

    name: ClassVar[str] = "image_folder"
    layout: ClassVar[str] = "'train/<class>/*.jpg' and 'test/<class>/*.jpg' or 'val/<class>/*.jpg'"

    def __init__(
        self,
        root: str | Path,
        cache_dir: str | Path,
        *,
        image_size: int,
        keep_aspect: bool = True,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        allow_overlap: bool = True,
        skip_corrupt: bool = False,
        order: Literal["name", "natural"] | None = None,
    ) -> None:
        geometry = Geometry(image_size, shorter_side=image_size if keep_aspect else None)
        super().__init__(root, cache_dir, geometry, skip_corrupt=skip_corrupt)
        if (mean is None) != (std is None):
            raise UserError("Expected both `mean` and `std` of the data set or neither (null)")
        self.given = None if mean is None or std is None else checked(mean, std)
        self.allow_overlap = allow_overlap
        self.order = order

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the class folders in the chosen order: the label order.

        Raises:
            UserError: If there are fewer than two.
        """
        names = self._folder_names
        if len(names) < 2:
            raise UserError(
                f"Expected two classes or more in '{self._where.home}', but found only "
                f"{names[0]}; for images without classes use dataset@pool=folder_pool"
            )
        return tuple(sorted(names, key=natural) if self.order == "natural" else names)

    @property
    def _folder_names(self) -> list[str]:
        for folder in (self._where.train, self._where.test):
            names = class_folders(folder) if folder else []
            if names:
                return names
        raise wrong_layout(self._where.home, self.layout)

    @property
    def doubtful_order(self) -> str | None:
        """The two orders of numbered class folders, where none was chosen and they differ."""
        if self.order is None and all(map(str.isdecimal, self.class_names)):
            return self._other_order
        return None

    @property
    def _other_order(self) -> str | None:
        """The order of the labels and that by number, in words; None where they are the same."""
        by_number = sorted(self.class_names, key=natural)
        if by_number == list(self.class_names):
            return None
        return (
            f"the class folders of '{self._where.home}' are {some(self.class_names)} by name, "
            f"{some(by_number)} by number (dataset.order=natural)"
        )

    def _notes(self) -> Sequence[str]:
        other = self._other_order
        order = [f"Labels are in the order of names: {other}"] if other else []
        return [*super()._notes(), *order]

    @cached_property
    def spec(self) -> ImageSpec:
        """Geometry and statistics; without given ones this decodes the train split once."""
        mean, std = self.given or self._measured()
        size = self.geometry.size
        return ImageSpec(len(self.class_names), size, mean, std, augmentation=self.augmentation)

    def train(self) -> Split:
        """The original training split; only the teacher may ask for it.

        Raises:
            UserError: If an image is also in the test split and that is not allowed.
        """
        train = self._decode("train", self.geometry)
        if self._list("test") is not None:
            self._report_overlap(train, self._decode("test", self.geometry))
        return Split(train.images, train.labels)

    def require_apart(self) -> None:
        """Look for images that are in both splits, where they are not allowed.

        Raises:
            UserError: If there are any.
        """
        if not self.allow_overlap:
            self.train()

    def _list(self, split: SplitName) -> ImageFiles | None:
        folder = self._where.train if split == "train" else self._where.test
        if folder is None or not class_folders(folder):
            return None
        return files_by_class(folder, self.class_names, may_lack=split == "test")

    def _measured(self) -> tuple[Channels, Channels]:
        if self._list("train") is None:
            raise UserError(
                f"Expected `mean` and `std` to be given, since '{self.root}' has no train split "
                "to measure them on; set both to those of the teacher's training data"
            )
        code = source_hash([DECODER, "src.dataset.statistics"])
        source = [asdict(self.geometry), self.skip_corrupt, self._fingerprint("train"), code]
        key = f"{self.name}-train-statistics-{content_hash(source)[:16]}"
        decode = partial(self._decode, "train", self.geometry)
        mean, std = remember(self.cache_dir, key, lambda: measure(decode().images))
        if min(std) == 0:
            raise UserError(
                f"Expected images in '{self._where.train}' that differ, but all their pixels have "
                f"the same value in a channel (mean {mean}, standard deviation {std}); check "
                "them, or set `mean` and `std`"
            )
        return checked(mean, std)

    def _report_overlap(self, train: Decoded, test: Decoded) -> None:
        seen = dict(zip(map(sha256_tensors, train.images), train.names, strict=True))
        hashes = zip(map(sha256_tensors, test.images), test.names, strict=True)
        pairs = [(seen[key], name) for key, name in hashes if key in seen]
        if not pairs:
            return
        report = (
            f"{len(pairs)} test images in '{self.root}' are also training images, first "
            f"'{pairs[0][1]}' = '{pairs[0][0]}': test accuracy is too high"
        )
        if not self.allow_overlap:
            raise UserError(f"{report}; remove them or set allow_overlap=true")
        _log.warning(report)
