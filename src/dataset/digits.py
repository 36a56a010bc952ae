"""Handwritten digits that come with scikit-learn: real images, no download.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository, 1998; the copy of its test set in scikit-learn.
"""

from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from src.common.augment import Augmentation
from src.common.files import sha256_tensors
from src.dataset.contract import Dataset, ImageSpec, Split

_SPLIT_SEED = 0
_NUM_TEST = 360


class Digits(Dataset):
    """1,437 + 360 grey images of 8 x 8 pixels, shown as 3 x 32 x 32; 10 classes.

    The split is stratified and fixed (scikit-learn's ``train_test_split``, seed 0). Images are
    enlarged bilinearly, which adds no ringing around the strokes.
    """

    name: ClassVar[str] = "digits"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in label order."""
        return tuple("0123456789")

    @property
    def spec(self) -> ImageSpec:
        """Geometry and statistics; mirrored digits are no digits, so there is no flip."""
        mean, std = (0.3054,) * 3, (0.3237,) * 3
        return ImageSpec(10, 32, mean, std, augmentation=Augmentation(padding=4))

    def train(self) -> Split:
        """The original training split; only the teacher may ask for it."""
        return self._splits[0]

    def test(self) -> Split:
        """The test split, for evaluation."""
        return self._splits[1]

    def count(self) -> int:
        """How many training images there are."""
        return len(self.train().labels)

    def fingerprint(self) -> str:
        """Content hash of both splits."""
        return sha256_tensors(*(t for split in self._splits for t in (split.images, split.labels)))

    @cached_property
    def _splits(self) -> tuple[Split, Split]:
        # Imported here: scikit-learn takes seconds and memory that other data sets do not need.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        indices = train_test_split(
            torch.arange(len(digits.target)).numpy(),
            test_size=_NUM_TEST,
            stratify=digits.target,
            random_state=_SPLIT_SEED,
        )
        images, labels = _as_images(torch.from_numpy(digits.images)), torch.tensor(digits.target)
        train, test = (Split(images[index], labels[index]) for index in indices)
        return train, test


def _as_images(grey: Tensor) -> Tensor:
    """Grey levels ``[N, 8, 8]`` in 0..16 as ``[N, 3, 32, 32]`` uint8."""
    enlarged: Tensor = resize(grey.unsqueeze(1) * (255 / 16), [32, 32])
    return enlarged.round().to(torch.uint8).repeat(1, 3, 1, 1)
