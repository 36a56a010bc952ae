"""What the moments of a run share: configuration, device, costs, and how a fit is run."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from src.common.distributed import barrier, on_rank_zero
from src.common.errors import UserError
from src.common.files import lock
from src.common.freezing import mode, unchanged
from src.common.measure import Measurement
from src.common.resume import FileBacked, ResumeCallback
from src.common.seeding import restore_rng_state, rng_state
from src.common.sync_batch_norm import sync_batch_norm
from src.config.node import Node, build
from src.config.schema import RunConfig
from src.dataset.contract import Dataset, Pool
from src.dataset.loader import LabelledBatches
from src.identity import Identity
from src.network.classifier import Classifier
from src.pipeline.content import contents_of
from src.pipeline.evaluation import EvaluateEvery
from src.pipeline.trainer import make_trainer

if TYPE_CHECKING:
    from wandb import Run

STAGES = ("teacher", "stage_a", "dictionary", "stage_b")
_EVALUATION_BATCH = 250
_CPU_EVALUATION_BATCH = 64  # a fifth to a half faster: its maps stay small enough to be reused


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
        config: The checked configuration, with the batch sizes of a rank.
        folder: The run's folder.
        dataset: The data set, not yet read.
        device: Device of this process.
        identity: What makes its teacher, data, dictionary and result the same as others.
        wandb_run: Mirror of the metrics, or None.
        costs: Time and memory of every stage.
        resumed: Stages whose fit an earlier attempt began; costs are of this attempt alone.
    """

    config: RunConfig
    folder: Path
    dataset: Dataset
    device: torch.device
    identity: Identity
    wandb_run: "Run | None" = None
    costs: dict[str, Measurement] = field(
        default_factory=lambda: {stage: Measurement() for stage in STAGES}
    )
    resumed: set[str] = field(default_factory=set)

    @property
    def cache(self) -> Path:
        """Where teachers and substitution artifacts are shared between runs."""
        return Path(self.config.paths.cache)

    @cached_property
    def pool(self) -> Pool:
        """Unlabeled images for samplers, not yet read."""
        pool: Pool = build(self.config.pool)
        return pool

    def require_unchanged_data(self, state: Path) -> None:
        """Refuse to keep a result of data that was not the same from beginning to end.

        Args:
            state: Folder of what was made of them, removed then: where they are as they were
                again, the same command would go on with it.

        Raises:
            UserError: If a file was edited meanwhile; the same command is another run now.
        """

        def changed() -> list[str]:
            now = contents_of(self.config)
            return [name for name, was in self.identity.contents.items() if now.get(name) != was]

        if names := on_rank_zero(changed):
            remove(state)
            raise UserError(
                f"Expected the content of {', '.join(names)} to stay as it was, but it was "
                "changed or removed while this run was reading it; nothing was kept: run again"
            )

    def to_device(self, module: nn.Module) -> None:
        """Move ``module`` to the device and into the memory format of the run."""
        module.to(self.device)
        if self.config.trainer.channels_last:
            module.to(memory_format=torch.channels_last)

    def network(self, node: Node) -> Classifier:
        """A classifier for this data set that will be trained, on the device."""
        # Not of the spec, for which a folder of images may have to be read.
        network: Classifier = build(node, num_classes=len(self.dataset.class_names))
        self.to_device(network)
        if self.config.trainer.sync_batch_norm:
            sync_batch_norm(network)
        return network

    def test_batches(self) -> LabelledBatches:
        """The test split."""
        size = _CPU_EVALUATION_BATCH if self.device.type == "cpu" else _EVALUATION_BATCH
        return LabelledBatches(self.dataset.test(), self.dataset.spec, size, self.device)

    def leaves_out(self, module: nn.Module, result: Callable[[Tensor], Tensor]) -> bool:
        """Whether a parameter takes no part in what is learned from, such as a second head's.

        One process does not care; several have to be told, or each would wait for the others'
        gradients of it.

        Args:
            module: What learns; as in training, with its statistics put back.
            result: Logits or loss, of images ``[B, C, H, W]``.
        """
        if self.config.trainer.ranks == 1:
            return False
        own = [each for each in module.parameters() if each.requires_grad]
        size = self.dataset.geometry.size
        self.to_device(module)  # Lightning would do so later
        images = torch.zeros(2, 3, size, size, device=self.device)
        before = rng_state()
        with unchanged(module), mode(module, True):
            gradients = torch.autograd.grad(result(images).sum(), own, allow_unused=True)
        restore_rng_state(before)
        return any(each is None for each in gradients)

    def fit(
        self,
        stage: str,
        module: LightningModule,
        *,
        epochs: int,
        state: Path,
        batches: Iterable[Any] | None = None,
        test: LabelledBatches | None = None,
        evaluate_every: int = 1,
        callbacks: Sequence[Callback] = (),
        files: Mapping[str, FileBacked] | None = None,
        outside: Mapping[str, nn.Module] | None = None,
        leaves_out: bool = False,
    ) -> Trainer:
        """Fit ``module``, from where an interrupted fit of the same stage stopped.

        Args:
            stage: ``teacher``, ``stage_a`` or ``stage_b``.
            module: What to fit.
            epochs: Epochs of the whole fit.
            state: Folder of the resumable state.
            batches: Training batches with an ``epoch`` counter; None if the module has its own.
            test: Test batches for validation; None for no validation.
            evaluate_every: Epochs from one validation to the next, counted back from the last.
            callbacks: Callbacks of the stage.
            files: See :class:`ResumeCallback`.
            outside: See :class:`ResumeCallback`.
            leaves_out: See :meth:`leaves_out`.
        """
        resume = ResumeCallback(state, files=files, outside=outside)
        done = resume.epochs_done()
        if done:
            self.resumed.add(stage)
        if batches is not None:
            batches.epoch = done  # type: ignore[attr-defined]
        trainer = make_trainer(
            stage,
            self.config.trainer,
            device=self.device,
            epochs=epochs,
            done=done,
            folder=self.folder,
            callbacks=[*callbacks, EvaluateEvery(evaluate_every), resume],
            wandb_run=self.wandb_run,
            leaves_out=leaves_out,
        )
        trainer.fit(module, batches, test)
        self.to_device(module)  # Lightning has left it, and all within it, on the CPU
        return trainer


def remove(folder: Path) -> None:
    """Delete a folder that is no longer needed, on rank 0, when all ranks are done with it."""
    barrier()
    on_rank_zero(lambda: shutil.rmtree(folder, ignore_errors=True))
