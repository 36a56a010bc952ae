"""Tiny-ImageNet-200, as distributed or with its validation images sorted into folders.

Source: Le and Yang, Tiny ImageNet Visual Recognition Challenge, 2015.
"""

import os
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

from src.common.augment import Augmentation
from src.dataset.decode import Geometry
from src.dataset.folder_dataset import SplitName
from src.dataset.listing import read_lines
from src.dataset.synset_dataset import SynsetDataset


class TinyImageNet(SynsetDataset):
    """Tiny-ImageNet: 100,000 + 10,000 colour images of 64 x 64 pixels, 200 classes.

    Args:
        root: Folder that holds ``train/<wnid>/[images/]`` and either ``val/images`` with
            ``val/val_annotations.txt`` or ``val/<wnid>/[images/]``; ``words.txt`` names classes.
        cache_dir: Root of all caches.
        statistics: ``imagenet``, close to the measured ones, so that whitened generator output
            matches; or ``half``, 0.5 for mean and standard deviation. CMI's code carries both.
        skip_corrupt: Leave unreadable images out instead of failing.
    """

    name: ClassVar[str] = "tiny_imagenet"
    layout: ClassVar[str] = (
        "'train/<wnid>/images/*.JPEG' and 'val/images/' with 'val/val_annotations.txt', "
        "or 'val/<wnid>/'"
    )
    num_classes: ClassVar[int] = 200
    official_counts: ClassVar[dict[SplitName, int]] = {"train": 100_000, "test": 10_000}
    usual: ClassVar[tuple[str, ...]] = ("tiny-imagenet-200",)
    flat_folder: ClassVar[str] = "images"
    annotation_files: ClassVar[tuple[str, ...]] = ("val_annotations.txt",)

    def __init__(
        self,
        root: str | Path,
        cache_dir: str | Path,
        *,
        statistics: Literal["imagenet", "half"] = "imagenet",
        skip_corrupt: bool = False,
    ) -> None:
        super().__init__(
            root, cache_dir, Geometry(64), statistics=statistics, skip_corrupt=skip_corrupt
        )

    @property
    def augmentation(self) -> Augmentation:
        """The training transform of Fast's and CMI's code: padded by 4 as images of 32 pixels are.

        Source: zju-vipa/Fast-Datafree, commit 0dcecbc, and the later methods that build on it.
        """
        return replace(super().augmentation, padding=4)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Words for the classes, in label order; identifiers where ``words.txt`` is missing."""
        path = self._where.home / "words.txt"
        lines = read_lines(path) if os.path.lexists(path) else []
        words = dict(line.split("\t", 1) for line in lines if "\t" in line)
        return tuple(words.get(synset, synset).strip() for synset in self.synsets)
