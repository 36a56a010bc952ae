"""What ImageNet and Tiny-ImageNet share: WordNet classes and a validation set in two layouts."""

import os
import re
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from src.common.errors import UserError
from src.dataset.contract import ImageSpec
from src.dataset.decode import Geometry
from src.dataset.folder_dataset import FolderDataset, SplitName
from src.dataset.layout import VALIDATION, wrong_layout
from src.dataset.listing import (
    ImageFiles,
    class_folders,
    files_by_annotation,
    files_by_class,
    read_annotations,
    some,
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
        flat_folder: Where unsorted validation images lie within the validation split.
        annotation_files: Names of the list of their classes.
    """

    evaluation: ClassVar[tuple[str, ...]] = VALIDATION
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
            UserError: If there are more or fewer than the data set has, or folders are named
                otherwise: sorted, their labels would be others than those of published teachers.
        """
        folders = class_folders(self._where.train) if self._where.train else []
        folders = folders or self._validation_folders
        found = folders or sorted(set(self._annotations.values()))
        if not found:
            raise wrong_layout(self._where.home, self.layout)
        strange = [name for name in folders if not re.fullmatch(r"n\d+", name)]
        if strange:
            raise UserError(
                f"Expected class folders named by WordNet identifier (n01440764) in "
                f"'{self._where.home}', but found {some(strange)}: their order would permute the "
                "labels; rename them, or use dataset=image_folder"
            )
        if len(found) != self.num_classes:
            raise UserError(
                f"Expected {self.num_classes} classes in '{self.root}' for {self.name}, but found "
                f"{len(found)}; for other classes use dataset=image_folder"
            )
        return tuple(found)

    @property
    def _validation_folders(self) -> list[str]:
        folder = self._where.test
        return [name for name in class_folders(folder) if name != "images"] if folder else []

    @cached_property
    def _annotations(self) -> dict[str, str]:
        return self._read_annotations()

    def _read_annotations(self) -> dict[str, str]:
        path = next(filter(os.path.lexists, self._annotation_paths), None)
        return read_annotations(path) if path else {}

    @property
    def _annotation_paths(self) -> list[Path]:
        inside = [self._where.test] if self._where.test else []
        places = [*self._where.around, *inside]
        return [place / name for name in self.annotation_files for place in places]

    def _lists(self) -> list[Path]:
        inside = [self._where.test / self.flat_folder] if self._where.test else []
        return [self._where.home / "words.txt", *inside, *self._annotation_paths]

    def _list(self, split: SplitName) -> ImageFiles | None:
        if split == "train":
            folder = self._where.train
            has_classes = folder is not None and class_folders(folder)
            return files_by_class(folder, self.synsets) if folder and has_classes else None
        folder = self._where.test
        if folder is None:
            return None
        if self._validation_folders:
            return files_by_class(folder, self.synsets)
        flat = folder / self.flat_folder
        if not flat.is_dir() or not self._annotations:
            return None
        files = files_by_annotation(flat, self._annotations, self.synsets)
        return files if files.names else None
