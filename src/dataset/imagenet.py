"""ImageNet-1k (ILSVRC 2012).

Source: Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015,
arXiv:1409.0575.
"""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

from torchvision.models import ResNet18_Weights

from src.common.augment import Augmentation
from src.dataset.decode import Geometry
from src.dataset.devkit import devkit_files, read_devkit
from src.dataset.folder_dataset import SplitName
from src.dataset.synset_dataset import SynsetDataset


class ImageNet(SynsetDataset):
    """ImageNet: 1,281,167 + 50,000 colour images, 1000 classes.

    Both splits are stored as evaluation sees them: shorter side to 8/7 of ``image_size``
    (256 for 224), then the centre. At 224 pixels the train split takes 193 GB of cache; as a
    pool at another size it is decoded straight to that size instead (3.9 GB at 32 pixels).

    Differs from common practice: the random resized crops that a teacher is trained on here are of
    the stored square, not of the full photograph; published teachers come as checkpoints.

    Args:
        root: Folder that holds ``train/<wnid>/`` and either ``val/<wnid>/`` or ``val/*.JPEG`` with
            one of the lists ``LOC_val_solution.csv`` (Kaggle) and ``val.txt`` (``<file> <wnid>``
            or ``<file> <label>`` a line, labels from 0), beside ``val`` or in it, or with the
            development kit ``ILSVRC2012_devkit_t12``, unpacked or not, beside ``val``; or Kaggle's
            archive with ``ILSVRC/Data/CLS-LOC/`` and its lists.
        cache_dir: Root of all caches.
        image_size: Height and width of the decoded images, pixels.
        statistics: ``imagenet`` or ``half``, 0.5 for mean and standard deviation.
        skip_corrupt: Leave unreadable images out instead of failing.
    """

    name: ClassVar[str] = "imagenet"
    layout: ClassVar[str] = (
        "'train/<wnid>/*.JPEG' and 'val/<wnid>/*.JPEG', or 'val/*.JPEG' with "
        "'LOC_val_solution.csv', 'val.txt' (<file> <wnid or label> a line) or "
        "'ILSVRC2012_devkit_t12'"
    )
    num_classes: ClassVar[int] = 1000
    official_counts: ClassVar[dict[SplitName, int]] = {"train": 1_281_167, "test": 50_000}
    usual: ClassVar[tuple[str, ...]] = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")
    flat_folder: ClassVar[str] = ""
    annotation_files: ClassVar[tuple[str, ...]] = ("LOC_val_solution.csv", "val.txt")

    def __init__(
        self,
        root: str | Path,
        cache_dir: str | Path,
        *,
        image_size: int = 224,
        statistics: Literal["imagenet", "half"] = "imagenet",
        skip_corrupt: bool = False,
    ) -> None:
        geometry = Geometry(image_size, shorter_side=image_size * 8 // 7)
        super().__init__(
            root, cache_dir, geometry, statistics=statistics, skip_corrupt=skip_corrupt
        )

    def _read_annotations(self) -> dict[str, str]:
        kits = (read_devkit(place) for place in self._where.around)
        return super()._read_annotations() or next(filter(None, kits), {})

    def _lists(self) -> list[Path]:
        kits = (path for place in self._where.around for path in devkit_files(place))
        return [*super()._lists(), *kits]

    @property
    def augmentation(self) -> Augmentation:
        """The training transform: random resized crops of 8% of the area at least."""
        return replace(super().augmentation, scale=(0.08, 1.0))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Words for the classes, in label order."""
        return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
