"""Stage (a) on disk: content-addressed, written once, read by many."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import load_file

from src.common.distributed import (
    barrier,
    gather_objects,
    gather_rows,
    on_rank_zero,
    rank,
    world_size,
)
from src.common.errors import UserError, described
from src.common.files import flush, sha256_tensors, writing
from src.common.sealed import DamagedError, digests, read_own, verify, write_sealed
from src.common.states import read_state, save_state
from src.common.tensors import save_tensors
from src.substitution.contract import Baseline
from src.substitution.image_bank import ImageBank
from src.substitution.module import Recording
from src.substitution.row_store import RowStore

FORMAT = 3
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
        """Whether a finished artifact lies here, whole or not; decided on rank 0."""
        return on_rank_zero(lambda: (self.folder / _META).exists())

    def damage(self) -> str | None:
        """What is wrong with it, on any rank; None if every file is as it was written."""

        def own() -> str | None:
            try:
                stored = read_own(self.folder / _META, self.key)
                if stored["world_size"] == world_size():
                    verify(self.folder, stored["checksums"][rank()])
            except (DamagedError, KeyError) as error:
                return str(error)
            return None

        return next((found for found in gather_objects(own()) if found is not None), None)

    @property
    def dictionaries(self) -> Path:
        """Folder of the confounder dictionaries built from this artifact."""
        return self.folder / "dictionaries"

    def info(self) -> ArtifactInfo:
        """The description written at the end.

        Raises:
            UserError: If it was written by another number of ranks.
            DamagedError: If it is not as it was written.
        """
        stored = read_own(self.folder / _META, self.key)
        info = ArtifactInfo(**{key: stored[key] for key in ArtifactInfo.__dataclass_fields__})
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
        stores: Mapping[str, RowStore] = MappingProxyType({}),
    ) -> ArtifactInfo:
        """Write the shard of every rank, and the description last.

        The description is what :meth:`exists` looks for, so an interrupted write is never
        trusted; the next attempt overwrites it. ``stores`` are what the method needs beside its
        state and the banks to go on, by name.
        """
        on_rank_zero(lambda: self.folder.mkdir(parents=True, exist_ok=True))
        files = self._write_shard(baseline, recording, stores)
        checksums = gather_objects(digests(self.folder, files))
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
        banks = [bank.description() for bank in recording.banks]
        stored = {"of": self.key, "format": FORMAT, **asdict(info)}
        stored |= {"banks": banks, "checksums": checksums}
        barrier()
        on_rank_zero(lambda: write_sealed(self.folder / _META, stored))
        return info

    def _write_shard(
        self, baseline: Baseline, recording: Recording, stores: Mapping[str, RowStore]
    ) -> list[str]:
        """Write what this rank has; return the names of the files."""
        bank_files = [f"bank{i}_rank{rank()}.npy" for i in range(len(recording.banks))]
        kept = {f"{name}_rank{rank()}.npy": store for name, store in stores.items()}
        files = [*bank_files, *kept, self._predictions, self._state]
        with writing(self.folder / files[0]):
            for name, bank in zip(bank_files, recording.banks, strict=True):
                bank.save(self.folder / name)
            for name, store in kept.items():
                store.save(self.folder / name)
            predictions = {"logits": recording.logits, "features": recording.features}
            save_tensors(predictions, self.folder / self._predictions)
            save_state(baseline.state_dict(), self.folder / self._state)
            for file in files:
                flush(self.folder / file)
        return files

    @property
    def _predictions(self) -> str:
        return f"predictions_rank{rank()}.safetensors"

    @property
    def _state(self) -> str:
        return f"baseline_rank{rank()}.pt"

    def read(self, device: torch.device) -> Recording:
        """The shard of this rank, banks on ``device`` (or memory-mapped where large).

        Raises:
            UserError: If a file is missing or damaged.
        """
        self.info()
        try:
            descriptions = read_own(self.folder / _META, self.key)["banks"]
            banks = [
                ImageBank.load(self.folder / f"bank{i}_rank{rank()}.npy", description).to(device)
                for i, description in enumerate(descriptions)
            ]
            predictions = load_file(self.folder / self._predictions)
        except Exception as error:
            raise self._damaged(error) from error
        return Recording(banks, predictions["logits"], predictions["features"])

    def restore(
        self,
        baseline: Baseline,
        recording: Recording,
        stores: Mapping[str, RowStore] = MappingProxyType({}),
    ) -> None:
        """Load the method's state, so that it can go on from what :meth:`read` returned.

        It cannot where it has stores that :meth:`write` was not given.

        Raises:
            UserError: If a file is missing or damaged.
        """
        try:
            baseline.load_state_dict(read_state(self.folder / self._state))
            for name, store in stores.items():
                store.read(self.folder / f"{name}_rank{rank()}.npy")
        except Exception as error:
            raise self._damaged(error) from error
        for bank, stored in zip(baseline.substitution_data(), recording.banks, strict=True):
            bank.adopt(stored)

    def _damaged(self, error: Exception) -> UserError:
        return UserError(
            f"Cannot read the substitution data in '{self.folder}' ({described(error)}); "
            "delete the folder to build it again"
        )
