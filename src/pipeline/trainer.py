"""Lightning trainers for the three fits, alike but for their stage."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy

from src.common.distributed import on_rank_zero, rank
from src.common.signals import STOPPING, is_rank
from src.config.schema import TrainerOptions
from src.report.dashboard import tolerated
from src.substitution.strategy import UnwrappedDDPStrategy

if TYPE_CHECKING:
    from wandb import Run

_TITLES = {
    "teacher": "Teacher",
    "stage_a": "Stage (a) substitution data",
    "stage_b": "Stage (b) student",
}


class KeepSignals(Callback):
    """Gives signals back to whoever had them before Lightning took them over for the fit.

    Lightning ends a run of SIGTERM with exit code 0, and with several ranks broadcasts from within
    its handler.
    """

    def __init__(self) -> None:
        self.handlers = {number: signal.getsignal(number) for number in STOPPING}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has registered its own by now, as it has not at ``on_fit_start``."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.handlers.items():
                signal.signal(number, handler)


class StageProgress(RichProgressBar):
    """A progress bar that names the stage and counts epochs over interruptions."""

    def __init__(self, stage: str, epochs: int) -> None:
        super().__init__(refresh_rate=5)
        self.stage, self.epochs = stage, epochs

    def _get_train_description(self, current_epoch: int) -> str:
        done = self.trainer.lightning_module.epochs_done
        return f"{_TITLES[self.stage]} {min(done + 1, self.epochs)}/{self.epochs}"  # type: ignore[operator]

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        """What is logged, without a version number and without its stage's prefix."""
        metrics = super().get_metrics(*args)
        return {key.split("/")[-1]: value for key, value in metrics.items() if key != "v_num"}


class _Mirror(WandbLogger):
    """A copy in W&B, without which the fit goes on."""

    def __init__(self, run: "Run") -> None:
        super().__init__(experiment=run)
        self.run = run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with tolerated(self.run):
            super().log_metrics(metrics, step)


def forbid_tf32() -> None:
    """Let convolutions in float32 be so on every GPU, as torch has it for products of matrices.

    On those from Ampere on it would else round what is multiplied to 10 bits, where
    ``trainer.precision=32-true`` asks for 23.
    """
    # This sets torch's newer `conv.fp32_precision`, too. To set that one alone makes it an error
    # to read this one, as `torch.backends.cudnn.flags` does.
    torch.backends.cudnn.allow_tf32 = False


def choose_determinism(is_wanted: bool) -> None:
    """Do for ``trainer.deterministic`` what Lightning does when it makes the first trainer.

    That comes late: a given teacher is evaluated before, and cuBLAS reads its variable when it is
    first used.
    """
    torch.use_deterministic_algorithms(is_wanted)
    if is_wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def make_trainer(
    stage: str,
    options: TrainerOptions,
    *,
    device: torch.device,
    epochs: int,
    done: int,
    folder: Path,
    callbacks: Sequence[Callback],
    wandb_run: "Run | None",
    leaves_out: bool = False,
) -> Trainer:
    """A trainer for one fit.

    Args:
        stage: ``teacher``, ``stage_a`` or ``stage_b``.
        options: Device, precision, processes.
        device: Device of this process.
        epochs: Epochs of the whole fit.
        done: Epochs that an interrupted fit has finished.
        folder: Run folder; metrics go to ``metrics/<stage>/metrics.csv``.
        callbacks: Callbacks of the stage.
        wandb_run: Mirror, or None.
        leaves_out: Whether a parameter takes no part in a step, which other ranks would wait for.
    """
    _silence()
    loggers: list[Logger] = [CSVLogger(folder, "metrics", version=_version(folder, stage))]
    if wandb_run is not None:
        loggers.append(_Mirror(wandb_run))
    shown = options.progress and rank() == 0
    return Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=options.devices,
        num_nodes=options.nodes,
        # Ours or torchrun's. Left to itself, Lightning takes a batch job of SLURM for its rank.
        plugins=[TorchElasticEnvironment() if is_rank() else LightningEnvironment()],
        strategy=_strategy(stage, options, leaves_out),
        precision=options.precision,
        deterministic=options.deterministic,
        max_epochs=epochs - done,
        reload_dataloaders_every_n_epochs=1 if stage == "stage_a" else 0,
        logger=loggers,
        log_every_n_steps=1,
        callbacks=[*callbacks, KeepSignals(), *([StageProgress(stage, epochs)] if shown else [])],
        enable_progress_bar=shown,
        enable_checkpointing=True,  # only allows our own; no default is added beside it
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _strategy(stage: str, options: TrainerOptions, leaves_out: bool) -> Any:
    if options.ranks == 1:
        return "auto"
    if stage == "stage_a":
        return UnwrappedDDPStrategy()
    # BN statistics stay local while training, unless the layers themselves are synchronised, and
    # are taken from rank 0 where they are used.
    return DDPStrategy(forward_sync_buffers=False, find_unused_parameters=leaves_out)


def _version(folder: Path, stage: str) -> str:
    """A folder of its own for every attempt: Lightning empties one that exists."""

    def unused() -> str:
        attempts = len(list((folder / "metrics").glob(f"{stage}*")))
        return stage if attempts == 0 else f"{stage}.{attempts}"

    return on_rank_zero(unused)


def _silence() -> None:
    """Keep Lightning's remarks that are no news here from the terminal."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*configure_optimizers.*returned `None`.*",  # baselines step their own
        ".*does not have many workers.*",  # there are none: batches are made on the device
        ".*`max_epochs=0` reached.*",  # resuming after the last epoch
        ".*Total length of .* across ranks is zero.*",  # and then no round is left
        ".*isinstance.treespec, LeafSpec.*",
        ".*GPU available but not used.*",  # chosen by trainer.accelerator=cpu
    ):
        warnings.filterwarnings("ignore", message)
