"""What the moments of a run share: configuration, device, costs, and how a fit is run."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import instantiate
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from src.common.distributed import barrier, on_rank_zero, world_size
from src.common.files import lock
from src.common.measure import Measurement
from src.common.resume import FileBacked, ResumeCallback
from src.dataset.contract import Dataset, Pool
from src.dataset.loader import LabelledBatches
from src.network.classifier import Classifier
from src.pipeline.trainer import make_trainer
from src.schema import RunConfig
from src.signature import Node

if TYPE_CHECKING:
    from wandb import Run

STAGES = ("teacher", "stage_a", "dictionary", "stage_b")
_EVALUATION_BATCH = 250


def build(node: Node, **supplied: Any) -> Any:
    """Instantiate a ``_target_`` node with what the program supplies.

    Through a partial, so that Hydra does not turn the supplied objects into configs.
    """
    return instantiate({**node, "_partial_": True}, _convert_="all")(**supplied)


def build_partial(node: Node | None) -> Any:
    """A partial of a ``_target_`` node, for what is built from objects made later."""
    return None if node is None else instantiate({**node, "_partial_": True}, _convert_="all")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on rank 0 while every rank is in the block."""

    def acquire() -> None:
        stack.enter_context(lock(path))

    with ExitStack() as stack:
        on_rank_zero(acquire)
        yield


@dataclass
class Job:
    """One run.

    Attributes:
        config: The checked configuration.
        folder: The run's folder.
        dataset: The data set, not yet read.
        device: Device of this process.
        wandb_run: Mirror of the metrics, or None.
        costs: Time and memory of every stage.
    """

    config: RunConfig
    folder: Path
    dataset: Dataset
    device: torch.device
    wandb_run: "Run | None" = None
    costs: dict[str, Measurement] = field(
        default_factory=lambda: {stage: Measurement() for stage in STAGES}
    )

    @property
    def cache(self) -> Path:
        """Where teachers and substitution artifacts are shared between runs."""
        return Path(self.config.paths.cache)

    @cached_property
    def pool(self) -> Pool:
        """Unlabeled images for samplers, not yet read."""
        pool: Pool = build(self.config.pool)
        return pool

    def hardware(self) -> dict[str, Any]:
        """What changes numbers without changing the method; part of every cache key."""
        options = self.config.trainer
        return {
            "device": self.device.type,
            "precision": options.precision,
            "channels_last": options.channels_last,
            "deterministic": options.deterministic,
            "world_size": world_size(),
        }

    def to_device(self, module: nn.Module) -> None:
        """Move ``module`` to the device and into the memory format of the run."""
        module.to(self.device)
        if self.config.trainer.channels_last:
            module.to(memory_format=torch.channels_last)

    def network(self, node: Node) -> Classifier:
        """An untrained classifier for this data set, on the device."""
        # Not of the spec, for which a folder of images may have to be read.
        network: Classifier = build(node, num_classes=len(self.dataset.class_names))
        self.to_device(network)
        return network

    def test_batches(self) -> LabelledBatches:
        """The test split."""
        spec = self.dataset.spec
        return LabelledBatches(self.dataset.test(), spec, _EVALUATION_BATCH, self.device)

    def fit(
        self,
        stage: str,
        module: LightningModule,
        *,
        epochs: int,
        state: Path,
        batches: Iterable[Any] | None = None,
        test: LabelledBatches | None = None,
        callbacks: Sequence[Callback] = (),
        files: Mapping[str, FileBacked] | None = None,
        outside: Mapping[str, nn.Module] | None = None,
    ) -> Trainer:
        """Fit ``module``, from where an interrupted fit of the same stage stopped.

        Args:
            stage: ``teacher``, ``stage_a`` or ``stage_b``.
            module: What to fit.
            epochs: Epochs of the whole fit.
            state: Folder of the resumable state.
            batches: Training batches with an ``epoch`` counter; None if the module has its own.
            test: Test batches for validation after every epoch; None for no validation.
            callbacks: Callbacks of the stage.
            files: See :class:`ResumeCallback`.
            outside: See :class:`ResumeCallback`.
        """
        resume = ResumeCallback(state, files=files, outside=outside)
        done = resume.epochs_done()
        if batches is not None:
            batches.epoch = done  # type: ignore[attr-defined]
        trainer = make_trainer(
            stage,
            self.config.trainer,
            device=self.device,
            epochs=epochs,
            done=done,
            folder=self.folder,
            callbacks=[*callbacks, resume],
            wandb_run=self.wandb_run,
        )
        trainer.fit(module, batches, test)
        return trainer


def remove(folder: Path) -> None:
    """Delete a folder that is no longer needed, on rank 0, when all ranks are done with it."""
    barrier()
    on_rank_zero(lambda: shutil.rmtree(folder, ignore_errors=True))
