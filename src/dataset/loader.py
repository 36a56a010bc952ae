"""Batches of labelled images, augmented and normalised on the device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from src.common.distributed import rank, world_size
from src.common.errors import UserError
from src.common.seeding import generator
from src.dataset.contract import ImageSpec, Split
from src.dataset.normalisation import Normalisation


class LabelledBatches:
    """One pass over a split a time, as an iterable for ``Trainer``; no workers, no copies.

    With several ranks each takes its own share; in training all ranks yield equally many.

    Args:
        split: Images and labels.
        spec: Statistics and the training transform.
        batch_size: Images a batch and rank.
        device: Where the batches go.
        training: Shuffle, augment, and drop the incomplete last batch.
        seed: Seed of order and augmentation.

    Raises:
        UserError: If a rank would have no image, or images or labels are of another type.
    """

    def __init__(
        self,
        split: Split,
        spec: ImageSpec,
        batch_size: int,
        device: torch.device,
        *,
        training: bool = False,
        seed: int = 0,
    ) -> None:
        if len(split.labels) < world_size():
            raise UserError(
                f"Expected an image for each of {world_size()} ranks, but got a "
                f"{'train' if training else 'test'} split of {len(split.labels)}; take fewer "
                "trainer.devices"
            )
        kinds = split.images.dtype, split.labels.dtype
        if kinds != (torch.uint8, torch.int64):  # floats would be divided by 255 once more
            raise UserError(
                f"Expected uint8 images and int64 labels of a data set, but got {kinds[0]} and "
                f"{kinds[1]}; give images of 0 to 255"
            )
        self.split, self.spec = split, spec
        self.batch_size, self.device = batch_size, device
        self.training, self.seed = training, seed
        self.epoch = 0
        self._normalisation = Normalisation.of(spec).to(device)

    def _share(self) -> int:
        return len(self.split.labels) // world_size()

    def __len__(self) -> int:
        if self.training:
            return max(1, self._share() // self.batch_size)
        own = len(range(rank(), len(self.split.labels), world_size()))
        return -(-own // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.split.labels)
        order = torch.arange(count)
        if self.training:
            order = torch.randperm(
                count, generator=generator("cpu", self.seed, "order", self.epoch)
            )
            order = order[: self._share() * world_size()]
        draws = generator(self.device, self.seed, "augmentation", rank(), self.epoch)
        self.epoch += 1
        own = order[rank() :: world_size()].split(self.batch_size)
        for index in own[: len(self)]:
            images = self._brought(self.split.images[index])
            if self.training:
                images = self.spec.augmentation(images, draws)
            yield self._normalisation.from_uint8(images), self._brought(self.split.labels[index])

    def _brought(self, rows: Tensor) -> Tensor:
        # A blocking copy would wait for all that the device still has to do.
        return rows.to(self.device, non_blocking=self.device.type == "cuda")
