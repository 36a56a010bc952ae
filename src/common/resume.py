"""Save a fit after every epoch, per rank, and take it up again after an interruption."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from src.common.distributed import barrier, on_rank_zero, rank, world_size
from src.common.errors import UserError
from src.common.files import atomic_write
from src.common.seeding import restore_rng_state, rng_state


class FileBacked(Protocol):
    """State too large for a checkpoint; lives in a file of its own that only grows."""

    def sync(self, path: Path) -> None:
        """Write what is new since the last call."""

    def restore(self, path: Path) -> None:
        """Read the part that the loaded state says was committed."""


class ResumeCallback(Checkpoint):
    """Saves module, optimisers and random states at the end of every epoch.

    Lightning's own checkpoints hold no random state, one file for all ranks, and counters that
    stay 0 under raw optimisers; this one needs none of them. A module counts its finished
    epochs in its own state. Files hold tensors, numbers and strings only, so that resuming
    uses weights-only loading. It is a ``Checkpoint`` so that it runs after the module's own
    ``on_train_epoch_end``.

    Args:
        folder: Where the state files lie; shared by all ranks.
        files: Large states by name, saved beside the state files.
        outside: Modules by name whose state is saved too, but that the fitted module must not
            contain (a baseline beside a DDP-wrapped student).
    """

    def __init__(
        self,
        folder: Path,
        *,
        files: Mapping[str, FileBacked] | None = None,
        outside: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.folder = folder
        self.files, self.outside = dict(files or {}), dict(outside or {})
        self._state: dict[str, Any] | None = None

    def epochs_done(self) -> int:
        """Finished epochs of the newest state that every rank has saved; 0 without one."""
        return on_rank_zero(self._complete_epoch)

    def _complete_epoch(self) -> int:
        ranks: dict[int, set[int]] = {}
        for path in self.folder.glob("epoch*_rank*.pt"):
            match = re.fullmatch(r"epoch(\d+)_rank(\d+)\.pt", path.name)
            if match:
                ranks.setdefault(int(match[1]), set()).add(int(match[2]))
        complete = [epoch for epoch, found in ranks.items() if found >= set(range(world_size()))]
        return max(complete, default=0)

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch{epoch}_rank{rank()}.pt"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the newest complete state, if there is one."""
        epoch = self.epochs_done()
        if epoch == 0:
            return
        path = self._path(epoch)
        try:
            state = torch.load(path, map_location=pl_module.device, weights_only=True)
            pl_module.load_state_dict(state["module"])
            for name, module in self.outside.items():
                module.load_state_dict(state["outside"][name])
            for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            for name, file in self.files.items():
                file.restore(self.folder / f"{name}_rank{rank()}.bin")
        except Exception as error:
            raise UserError(
                f"Cannot resume from '{path}' ({type(error).__name__}); expected a state written "
                f"by the same configuration. Delete the folder '{self.folder}' to start again"
            ) from error
        self._state = state

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random states last, after all set-up has drawn from them."""
        if self._state is not None:
            restore_rng_state(self._state["rng"])
            self._state = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; older states go only when all ranks have written the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, file in self.files.items():
            file.sync(self.folder / f"{name}_rank{rank()}.bin")
        state = {
            "module": pl_module.state_dict(),
            "outside": {name: module.state_dict() for name, module in self.outside.items()},
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "rng": rng_state(),
        }
        path = self._path(cast(int, pl_module.epochs_done))
        with atomic_write(path) as temporary:
            torch.save(state, temporary)
        barrier()
        for old in self.folder.glob(f"epoch*_rank{rank()}.pt"):
            if old != path:
                old.unlink()
