"""Save a fit after every epoch, per rank, and take it up again after an interruption."""

import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from src.common.distributed import barrier, gather_objects, on_rank_zero, rank, world_size
from src.common.errors import UserError, described
from src.common.files import atomic_write, writing
from src.common.sealed import digest_file, read_own, verify, write_sealed
from src.common.seeding import restore_rng_state, rng_state
from src.common.states import read_state, save_state

_log = logging.getLogger(__name__)


class FileBacked(Protocol):
    """State too large for a checkpoint; lives in a file of its own that only grows."""

    def sync(self, path: Path) -> tuple[str, int]:
        """Write what is new since the last call; return digest and bytes of all that is there."""

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
        self._epoch: int | None = None

    def epochs_done(self) -> int:
        """Finished epochs of the newest state that every rank has saved; 0 without one.

        A state that is not as it was written is reported and removed: the fit starts again.
        """
        if self._epoch is None:
            epoch = on_rank_zero(self._complete_epoch)
            damage = next((d for d in gather_objects(self._damage(epoch)) if d), None)
            if damage is not None:
                self._state = None  # of a rank whose own is whole
                on_rank_zero(lambda: self._discard(damage))
            self._epoch = 0 if damage else epoch
        return self._epoch

    def _complete_epoch(self) -> int:
        ranks: dict[int, set[int]] = {}
        for path in self.folder.glob("epoch*_rank*.json"):
            match = re.fullmatch(r"epoch(\d+)_rank(\d+)\.json", path.name)
            if match:
                ranks.setdefault(int(match[1]), set()).add(int(match[2]))
        complete = [epoch for epoch, found in ranks.items() if found >= set(range(world_size()))]
        return max(complete, default=0)

    def _damage(self, epoch: int) -> str | None:
        """What is wrong with this rank's state of an epoch; None if nothing is."""
        if epoch == 0:
            return None
        try:
            card, path = read_own(self._path(epoch, "json"), self._of), self._path(epoch)
            verify(self.folder, {path.name: card["state"]})
            for name, (digest, size) in card["files"].items():
                verify(self.folder, {self._file(name).name: digest}, size)
            self._state = read_state(path)
        except Exception as error:  # noqa: BLE001 - a reader of damage may fail in any way
            return described(error)
        return None

    def _discard(self, damage: str) -> None:
        _log.warning("A saved state is damaged: %s; this stage starts again", damage)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _of(self) -> str:
        """Whose state it is: the last folders name stage and identity, wherever all is moved."""
        return "/".join(self.folder.absolute().parts[-3:])

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}_rank{rank()}.bin"

    def _path(self, epoch: int, suffix: str = "pt") -> Path:
        return self.folder / f"epoch{epoch}_rank{rank()}.{suffix}"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the newest complete state, if there is one."""
        epoch = self.epochs_done()
        if epoch == 0 or self._state is None:
            return
        state = self._state
        try:
            pl_module.load_state_dict(state["module"])
            for name, module in self.outside.items():
                module.load_state_dict(state["outside"][name])
            for optimizer, saved in zip(trainer.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            for name, file in self.files.items():
                file.restore(self._file(name))
        except Exception as error:
            raise UserError(
                f"Cannot resume from '{self._path(epoch)}' ({described(error)}); expected a "
                f"state written by the same configuration. Delete the folder '{self.folder}' to "
                "start again"
            ) from error

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the random states last, after all set-up has drawn from them."""
        if self._state is not None:
            restore_rng_state(self._state["rng"])
            self._state = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; older states go only when all ranks have written the new one."""
        state = {
            "module": pl_module.state_dict(),
            "outside": {name: module.state_dict() for name, module in self.outside.items()},
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "rng": rng_state(),
        }
        epoch = cast(int, pl_module.epochs_done)
        path, card = self._path(epoch), self._path(epoch, "json")
        files: dict[str, tuple[str, int]] = {}
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name, file in self.files.items():
                files[name] = file.sync(self._file(name))
        with atomic_write(path) as temporary:
            save_state(state, temporary)
            digest = digest_file(temporary)
        write_sealed(card, {"of": self._of, "state": digest, "files": files})
        barrier()
        for old in self.folder.glob(f"epoch*_rank{rank()}.*"):
            if old not in (path, card):
                old.unlink()
