"""CIFAR-10 and CIFAR-100, from the original archive or as folders of images.

Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. The statistics
are those that data-free distillation code uses throughout.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from src.common.errors import UserError
from src.common.files import content_hash, lock, sha256_file
from src.dataset.contract import Dataset, ImageSpec, Split
from src.dataset.decode import Geometry
from src.dataset.folder_dataset import FolderDataset, SplitName
from src.dataset.layout import wrong_layout
from src.dataset.listing import ImageFiles, class_folders, files_by_class

_CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket
rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
turtle wardrobe whale willow_tree wolf woman worm
"""


class _Cifar(FolderDataset):
    """Either layout of a CIFAR data set; the original archive wins where both are there.

    Args:
        root: Folder that holds the archive's folder (``cifar-10-batches-py``) or
            ``{train,test}/<class>/``; both may also lie in a folder named as the data set. Or the
            archive's folder itself.
        cache_dir: Root of all caches.
        download: Fetch and unpack the archive when nothing of the data set is there.
        skip_corrupt: Leave unreadable images out instead of failing.

    Attributes:
        reader: torchvision's reader of the archive, which knows its checksums.
        other_versions: Folders of the archives for other programs, which are not read.
        names: Class names in label order.
        mean: Per-channel mean in [0, 1].
        std: Per-channel standard deviation in [0, 1].
    """

    reader: ClassVar[type[CIFAR10]]
    other_versions: ClassVar[tuple[str, ...]]
    names: ClassVar[tuple[str, ...]]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]
    official_counts: ClassVar[dict[SplitName, int]] = {"train": 50_000, "test": 10_000}

    def __init__(
        self,
        root: str | Path,
        cache_dir: str | Path,
        *,
        download: bool = False,
        skip_corrupt: bool = False,
    ) -> None:
        super().__init__(root, cache_dir, Geometry(32), skip_corrupt=skip_corrupt)
        self.download = download

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return self.names

    @property
    def spec(self) -> ImageSpec:
        """Geometry and statistics."""
        return ImageSpec(len(self.names), 32, self.mean, self.std)

    def unlabeled(self, image_size: int) -> Tensor:
        """The training images as a pool, resized with antialiasing where sizes differ."""
        if self._archive is not None:
            return Dataset.unlabeled(self, image_size)
        return super().unlabeled(image_size)

    def count(self) -> int | None:
        """How many training images there are, unreadable ones included."""
        return super().count() if self._archive is None else self.official_counts["train"]

    @cached_property
    def _archive(self) -> Path | None:
        """The original batches, downloaded if that was asked for, or ``None``."""
        folder = self._places[0]
        if self.download and not self._has_folders and self._unpacked in (None, folder):
            try:
                with lock(folder):  # another process may be about to unpack it
                    if not folder.is_dir():
                        self._fetch()
            except UserError:
                if not folder.is_dir():  # else nobody unpacks where nothing can be written
                    raise
        return self._unpacked

    @property
    def _places(self) -> list[Path]:
        """Where the archive's folder may be, the preferred first."""
        root, name = self.root.absolute(), self.reader.base_folder  # "." has no name
        itself = [root] if root.name == name else []
        return [root / name, *(root / inner / name for inner in self.usual), *itself]

    @property
    def _unpacked(self) -> Path | None:
        return next((folder for folder in self._places if folder.is_dir()), None)

    @property
    def _has_folders(self) -> bool:
        return self._where.train is not None or self._where.test is not None

    def _fetch(self) -> None:
        try:
            self.reader(self.root, download=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"Cannot download {self.reader.url} ({error}); fetch it elsewhere and unpack it "
                f"in '{self.root}'"
            ) from error

    def sources(self) -> Sequence[str | Path]:
        """Files and folders that the content depends on."""
        return super().sources() if self._archive is None else [self.root, *self._lists()]

    def _list(self, split: SplitName) -> ImageFiles | None:
        if not self._has_folders:
            self._refuse_other_versions()
            raise wrong_layout(self.root, f"{self.layout} (or set dataset.download=true)")
        folder = self._where.train if split == "train" else self._where.test
        if folder is None or not class_folders(folder):
            return None
        return files_by_class(folder, self.names)

    def _refuse_other_versions(self) -> None:
        for name in self.other_versions:
            if self.root.absolute().name == name or (self.root / name).is_dir():
                raise UserError(
                    f"Expected {self.layout} in '{self.root}', but '{name}' is the version for "
                    f"another program; download the python version ({self.reader.url})"
                )

    def _lists(self) -> list[Path]:
        archive = self._archive or self._places[0]
        batches = [name for name, _ in self.reader.train_list + self.reader.test_list]
        return [archive, *(archive / name for name in (*batches, self.reader.meta["filename"]))]

    def _split(self, split: SplitName) -> Split:
        if self._archive is None:
            return super()._split(split)
        self._verify(self._archive)
        batches = self.reader(self._archive.parent, train=split == "train")
        images = np.ascontiguousarray(batches.data.transpose(0, 3, 1, 2))
        return Split(torch.from_numpy(images), torch.tensor(batches.targets))

    def _fingerprint(self, split: SplitName) -> str | None:
        if self._archive is None:
            return super()._fingerprint(split)
        batches = self.reader.train_list if split == "train" else self.reader.test_list
        self._verify(self._archive)
        return content_hash([sha256_file(self._archive / name) for name, _ in batches])

    def _verify(self, archive: Path) -> None:
        """Refuse altered batches: they are pickles, and reading a pickle can run code."""
        meta = [[self.reader.meta["filename"], self.reader.meta["md5"]]]
        for name, checksum in self.reader.train_list + self.reader.test_list + meta:
            if not check_integrity(archive / name, checksum):
                raise UserError(
                    f"Expected the original file '{archive / name}' (MD5 {checksum}), but it is "
                    f"missing or altered; unpack {self.reader.url} again"
                )


class Cifar10(_Cifar):
    """CIFAR-10: 50,000 + 10,000 colour images of 32 x 32 pixels, 10 classes."""

    name: ClassVar[str] = "cifar10"
    usual: ClassVar[tuple[str, ...]] = ("cifar10",)
    layout: ClassVar[str] = "'cifar-10-batches-py/' or '{train,test}/<class>/*.jpg'"
    reader: ClassVar[type[CIFAR10]] = CIFAR10
    other_versions: ClassVar[tuple[str, ...]] = ("cifar-10-batches-bin", "cifar-10-batches-mat")
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2023, 0.1994, 0.2010)
    names: ClassVar[tuple[str, ...]] = (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    )


class Cifar100(_Cifar):
    """CIFAR-100: 50,000 + 10,000 colour images of 32 x 32 pixels, 100 fine classes."""

    name: ClassVar[str] = "cifar100"
    usual: ClassVar[tuple[str, ...]] = ("cifar100",)
    layout: ClassVar[str] = "'cifar-100-python/' or '{train,test}/<class>/*.jpg'"
    reader: ClassVar[type[CIFAR10]] = CIFAR100
    other_versions: ClassVar[tuple[str, ...]] = ("cifar-100-binary", "cifar-100-matlab")
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4867, 0.4408)
    std: ClassVar[tuple[float, ...]] = (0.2675, 0.2565, 0.2761)
    names: ClassVar[tuple[str, ...]] = tuple(_CIFAR100_CLASSES.split())
