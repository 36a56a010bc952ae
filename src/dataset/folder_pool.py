"""Any folder of images as an unlabeled pool."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from src.dataset.cache import content_of, load_decoded
from src.dataset.contract import Pool
from src.dataset.decode import Geometry
from src.dataset.layout import wrong_layout
from src.dataset.listing import ImageFiles, by_suffix
from src.dataset.statistics import Channels, checked
from src.dataset.walk import walk

_log = logging.getLogger(__name__)


class FolderPool(Pool):
    """All images below a folder, in sorted order; folder names mean nothing.

    Args:
        root: The folder; only read.
        cache_dir: Root of all caches.
        mean: Per-channel mean of the pool in [0, 1].
        std: Per-channel standard deviation of the pool in [0, 1].
        keep_aspect: Resize the shorter side and cut out the centre; by default images are resized
            straight to the square, as DFND published it.
        skip_corrupt: Leave unreadable images out instead of failing.
    """

    name: ClassVar[str] = "folder_pool"

    def __init__(
        self,
        root: str | Path,
        cache_dir: str | Path,
        *,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        keep_aspect: bool = False,
        skip_corrupt: bool = False,
    ) -> None:
        self.root = Path(root)
        self.cache_dir = Path(cache_dir)
        self.given = checked(mean, std)
        self.keep_aspect = keep_aspect
        self.skip_corrupt = skip_corrupt

    @property
    def statistics(self) -> tuple[Channels, Channels]:
        """The pool's own per-channel mean and standard deviation in [0, 1]."""
        return self.given

    def unlabeled(self, image_size: int) -> Tensor:
        """All images ``[N, 3, image_size, image_size]`` uint8, resized, in a fixed order."""
        geometry = Geometry(image_size, shorter_side=image_size if self.keep_aspect else None)
        files = self._list()
        for note in files.notes:
            _log.info(note)
        decoded = load_decoded(
            files, geometry, self.cache_dir, self.name, skip_corrupt=self.skip_corrupt
        )
        return decoded.images

    def count(self) -> int:
        """How many images there are, unreadable ones included."""
        return len(self._list().names)

    def fingerprint(self) -> str:
        """Content hash of the files; equal copies have equal hashes."""
        return content_of(self._list(), self.cache_dir, self.name)

    def sources(self) -> Sequence[str | Path]:
        """Files and folders that the content depends on."""
        return self._list().sources

    def _list(self) -> ImageFiles:
        names, folders, others = walk(self.root)
        if not names:
            left_out = f", not only {by_suffix(others)}," if others else ""
            raise wrong_layout(self.root, f"images (jpg, png, ...){left_out} at any depth")
        return ImageFiles(
            self.root, tuple(names), (0,) * len(names), tuple(folders), others=others
        )
