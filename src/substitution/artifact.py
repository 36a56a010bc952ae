"""Stage (a) on disk: content-addressed, written once, read by many."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from src.common.distributed import barrier, gather_rows, on_rank_zero, rank, world_size
from src.common.errors import UserError
from src.common.files import atomic_write, sha256_tensors
from src.substitution.contract import Baseline
from src.substitution.image_bank import ImageBank
from src.substitution.module import Recording

FORMAT = 2
_META = "artifact.json"


@dataclass(frozen=True)
class ArtifactInfo:
    """What is known of a finished stage (a).

    Attributes:
        key: Content address.
        images: Substitution images over all ranks.
        world_size: Ranks that wrote it; each reads its own shard.
        data_sha256: Hash of the images of rank 0's banks.
        class_proportions: Shares of the teacher's predicted classes, K numbers.
        losses: Loss terms of the last epoch.
        acc1_stage_a: Test accuracy of the student trained alongside, percent.
    """

    key: str
    images: int
    world_size: int
    data_sha256: str
    class_proportions: list[float]
    losses: dict[str, float]
    acc1_stage_a: float | None


class Artifact:
    """Reads and writes the folder of one stage (a).

    Args:
        folder: ``<cache>/substitution/<key>``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def key(self) -> str:
        """Content address."""
        return self.folder.name

    def exists(self) -> bool:
        """Whether a finished artifact lies here; decided on rank 0."""
        return on_rank_zero(lambda: (self.folder / _META).is_file())

    @property
    def dictionaries(self) -> Path:
        """Folder of the confounder dictionaries built from this artifact."""
        return self.folder / "dictionaries"

    def info(self) -> ArtifactInfo:
        """The description written at the end.

        Raises:
            UserError: If it cannot be read, or was written by another number of ranks.
        """
        path = self.folder / _META
        try:
            stored = json.loads(path.read_text())
            del stored["banks"]
            info = ArtifactInfo(**stored)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"Cannot read the substitution artifact '{path}' ({type(error).__name__}); "
                f"delete the folder '{self.folder}' to build it again"
            ) from error
        if info.world_size != world_size():
            raise UserError(
                f"Expected the artifact '{self.folder}' to be written by {world_size()} ranks, "
                f"but it was written by {info.world_size}"
            )
        return info

    def write(
        self,
        baseline: Baseline,
        recording: Recording,
        losses: dict[str, float],
        acc1_stage_a: float | None,
    ) -> ArtifactInfo:
        """Write the shard of every rank, and the description last.

        The description is what :meth:`exists` looks for, so an interrupted write is never
        trusted; the next attempt overwrites it.
        """
        on_rank_zero(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        for position, bank in enumerate(recording.banks):
            bank.save(self.folder / f"bank{position}_rank{rank()}.npy")
        predictions = {"logits": recording.logits, "features": recording.features}
        save_file(predictions, self.folder / f"predictions_rank{rank()}.safetensors")
        torch.save(baseline.state_dict(), self.folder / f"baseline_rank{rank()}.pt")
        logits = gather_rows(recording.logits.to(baseline.device))
        counts = torch.bincount(logits.argmax(1).cpu(), minlength=logits.shape[1])
        info = ArtifactInfo(
            key=self.key,
            images=len(logits),
            world_size=world_size(),
            data_sha256=sha256_tensors(*(bank.images for bank in recording.banks)),
            class_proportions=(counts / counts.sum()).tolist(),
            losses=losses,
            acc1_stage_a=acc1_stage_a,
        )
        stored = asdict(info) | {"banks": [bank.description() for bank in recording.banks]}
        barrier()
        on_rank_zero(lambda: self._commit(stored))
        return info

    def _commit(self, stored: dict[str, Any]) -> None:
        with atomic_write(self.folder / _META) as temporary:
            temporary.write_text(json.dumps(stored, indent=1))

    def read(self, device: torch.device) -> Recording:
        """The shard of this rank, banks on ``device`` (or memory-mapped where large).

        Raises:
            UserError: If a file is missing or damaged.
        """
        self.info()
        try:
            descriptions = json.loads((self.folder / _META).read_text())["banks"]
            banks = [
                ImageBank.load(self.folder / f"bank{i}_rank{rank()}.npy", description).to(device)
                for i, description in enumerate(descriptions)
            ]
            predictions = load_file(self.folder / f"predictions_rank{rank()}.safetensors")
        except Exception as error:
            raise self._damaged(error) from error
        return Recording(banks, predictions["logits"], predictions["features"])

    def restore(self, baseline: Baseline, recording: Recording) -> None:
        """Load the method's state, so that it can go on from what :meth:`read` returned.

        Raises:
            UserError: If a file is missing or damaged.
        """
        path = self.folder / f"baseline_rank{rank()}.pt"
        try:
            state = torch.load(path, map_location=baseline.device, weights_only=True)
            baseline.load_state_dict(state)
        except Exception as error:
            raise self._damaged(error) from error
        for bank, stored in zip(baseline.substitution_data(), recording.banks, strict=True):
            bank.adopt(stored)

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"Cannot read the substitution data in '{self.folder}' ({type(error).__name__}); "
            "delete the folder to build it again"
        )
