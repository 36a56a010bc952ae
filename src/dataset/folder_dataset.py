"""What all data sets made of image files share: listing, cache, counts, fingerprint."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from src.common.augment import Augmentation
from src.common.files import content_hash
from src.dataset.cache import Decoded, content_of, load_decoded
from src.dataset.contract import Dataset, Split
from src.dataset.decode import Geometry
from src.dataset.layout import EVALUATION, Splits, find_splits, wrong_layout
from src.dataset.listing import ImageFiles

_log = logging.getLogger(__name__)
SplitName = Literal["train", "test"]
_SPLITS: tuple[SplitName, ...] = ("train", "test")


class FolderDataset(Dataset):
    """A data set of image files, decoded once into a cache.

    A split may be missing as long as nobody asks for it: with a given teacher a data-free run
    needs no training image.

    Args:
        root: Folder of the data set; only read.
        cache_dir: Root of all caches.
        geometry: Size of the decoded images.
        skip_corrupt: Leave unreadable images out instead of failing.

    Attributes:
        layout: The accepted folder layouts, in words.
        official_counts: Number of images of each split; another number is a warning.
        evaluation: Names of folders to evaluate on, the preferred first.
        usual: Paths within ``root`` where the published archive has the splits.
    """

    layout: ClassVar[str]
    evaluation: ClassVar[tuple[str, ...]] = EVALUATION
    usual: ClassVar[tuple[str, ...]] = ()
    official_counts: ClassVar[dict[SplitName, int]] = {}

    def __init__(
        self, root: str | Path, cache_dir: str | Path, geometry: Geometry, *, skip_corrupt: bool
    ) -> None:
        self.root = Path(root)
        self.cache_dir = Path(cache_dir)
        self.geometry = geometry
        self.skip_corrupt = skip_corrupt
        self._said: set[str] = set()

    @cached_property
    def _where(self) -> Splits:
        return find_splits(self.root, self.evaluation, self.usual)

    @abstractmethod
    def _list(self, split: SplitName) -> ImageFiles | None:
        """Files of a split, or ``None`` where its folder is missing."""

    @property
    def augmentation(self) -> Augmentation:
        """The training transform: CIFAR's in proportion, a padding of an eighth of the side."""
        return Augmentation(self.geometry.size // 8, 0.5)

    def train(self) -> Split:
        """The original training split; only the teacher may ask for it."""
        # Not kept: later stages, whose memory is measured, do not need it.
        return self._split("train")

    def test(self) -> Split:
        """The test split, for evaluation."""
        return self._test

    @cached_property
    def _test(self) -> Split:
        return self._split("test")

    def unlabeled(self, image_size: int) -> Tensor:
        """The training images as a pool; another size is decoded straight to the square.

        Differs from resizing the stored images only where those are cropped: a pool shows
        the whole image, whatever its aspect ratio, as DFND published it.
        """
        if image_size == self.geometry.size:
            return self.train().images
        return self._decode("train", Geometry(image_size)).images

    def count(self) -> int | None:
        """How many training images there are, unreadable ones included."""
        files = self._list("train")
        return None if files is None else len(files.names)

    def fingerprint(self) -> str:
        """Content hash of the splits that are there; equal copies have equal hashes."""
        found = {split: self._fingerprint(split) for split in _SPLITS}
        if not any(found.values()):
            raise wrong_layout(self._where.home, self.layout)
        return content_hash(found)

    def sources(self) -> Sequence[str | Path]:
        """Files and folders that the content depends on."""
        found: list[str | Path] = [*self._where.folders, *self._lists()]
        for split in _SPLITS:
            files = self._list(split)
            found += [] if files is None else files.sources
        return found

    def _lists(self) -> list[Path]:
        """What is read besides images, whether it is there or not."""
        return []

    def _notes(self) -> Sequence[str]:
        """What was decided about the layout, in words."""
        return self._where.notes

    def _say(self, *notes: str) -> None:
        """Log what was not said before."""
        for note in notes:
            if note not in self._said:
                self._said.add(note)
                _log.info(note)

    def _split(self, split: SplitName) -> Split:
        decoded = self._decode(split, self.geometry)
        return Split(decoded.images, decoded.labels)

    def _decode(self, split: SplitName, geometry: Geometry) -> Decoded:
        files = self._list(split)
        if files is None:
            raise wrong_layout(self._where.home, f"a {split} split ({self.layout})")
        self._say(*self._notes(), *files.notes)
        official = self.official_counts.get(split, len(files.names))
        if len(files.names) != official:
            _log.warning(
                "The %s split of %s in '%s' holds %d images instead of %d: results do not compare "
                "with published ones",
                *(split, self.name, self.root, len(files.names), official),
            )
        return load_decoded(
            files,
            geometry,
            self.cache_dir,
            f"{self.name}-{split}",
            skip_corrupt=self.skip_corrupt,
        )

    def _fingerprint(self, split: SplitName) -> str | None:
        files = self._list(split)
        return None if files is None else content_of(files, self.cache_dir, f"{self.name}-{split}")
