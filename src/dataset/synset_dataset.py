"""What ImageNet and Tiny-ImageNet share: WordNet classes and a validation set in two layouts."""

import os
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from src.common.errors import UserError
from src.dataset.contract import ImageSpec
from src.dataset.decode import Geometry
from src.dataset.folder_dataset import FolderDataset, SplitName
from src.dataset.listing import (
    ImageFiles,
    class_folders,
    files_by_annotation,
    files_by_class,
    read_annotations,
    wrong_layout,
)

_STATISTICS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class SynsetDataset(FolderDataset):
    """Training folders named by WordNet identifier, validation as folders or annotated files.

    Labels follow the sorted identifiers, as in every published ImageNet classifier. The
    validation set serves as test split, since the real test labels are not public.

    Args:
        root: Folder of the data set; only read.
        cache_dir: Root of all caches.
        geometry: Size of the decoded images.
        statistics: ``imagenet``, the usual mean and standard deviation, or ``half``: 0.5 for
            both, as MosaicKD normalises ImageNet-32 and Places-32 pools.
        skip_corrupt: Leave unreadable images out instead of failing.

    Attributes:
        num_classes: K; another number is an error.
        flat_folder: Where unsorted validation images lie.
        annotation_files: Where the list of their classes may lie.
    """

    num_classes: ClassVar[int]
    flat_folder: ClassVar[str]
    annotation_files: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        root: str | Path,
        cache_dir: str | Path,
        geometry: Geometry,
        *,
        statistics: Literal["imagenet", "half"],
        skip_corrupt: bool,
    ) -> None:
        super().__init__(root, cache_dir, geometry, skip_corrupt=skip_corrupt)
        if statistics not in _STATISTICS:
            raise UserError(
                f"Expected `statistics` to be one of {list(_STATISTICS)}, but got '{statistics}'"
            )
        self.statistics_name = statistics

    @property
    def spec(self) -> ImageSpec:
        """Geometry and statistics."""
        mean, std = _STATISTICS[self.statistics_name]
        size = self.geometry.size
        return ImageSpec(self.num_classes, size, mean, std, augmentation=self.augmentation)

    @cached_property
    def synsets(self) -> tuple[str, ...]:
        """WordNet identifiers of the classes, in label order.

        Raises:
            UserError: If there are more or fewer than the data set has.
        """
        found = class_folders(self.root / "train") or self._validation_folders
        found = found or sorted(set(self._annotations.values()))
        if not found:
            raise wrong_layout(self.root, self.layout)
        if len(found) != self.num_classes:
            raise UserError(
                f"Expected {self.num_classes} classes in '{self.root}' for {self.name}, but found "
                f"{len(found)}; for other classes use dataset=image_folder"
            )
        return tuple(found)

    @property
    def _validation_folders(self) -> list[str]:
        return [name for name in class_folders(self.root / "val") if name != "images"]

    @cached_property
    def _annotations(self) -> dict[str, str]:
        return self._read_annotations()

    def _read_annotations(self) -> dict[str, str]:
        candidates = (self.root / name for name in self.annotation_files)
        path = next(filter(os.path.lexists, candidates), None)
        return read_annotations(path) if path else {}

    def _lists(self) -> list[Path]:
        return [
            self.root / name for name in ("words.txt", self.flat_folder, *self.annotation_files)
        ]

    def _list(self, split: SplitName) -> ImageFiles | None:
        if split == "train":
            folder = self.root / "train"
            return files_by_class(folder, self.synsets) if class_folders(folder) else None
        if self._validation_folders:
            return files_by_class(self.root / "val", self.synsets)
        flat = self.root / self.flat_folder
        if not flat.is_dir() or not self._annotations:
            return None
        files = files_by_annotation(flat, self._annotations, self.synsets)
        return files if files.names else None
