"""Builds the confounder dictionary between stages (a) and (b)."""

import logging
from dataclasses import asdict
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from src.common.distributed import gather_rows, on_rank_zero, require_equal_on_all_ranks
from src.common.files import lock, remove_leftovers, sha256_tensors
from src.common.measure import Measurement, measured
from src.common.sealed import DamagedError
from src.kdci.dictionary import (
    ConfounderDictionary,
    DictionarySettings,
    fit_dictionary,
    predictions_of,
)
from src.kdci.mixin import KDCIMixin
from src.substitution.module import Recording, SubstitutionModule

_log = logging.getLogger(__name__)


class ConfounderDictionaryCallback(Callback):
    """Clusters the teacher's predictions on all substitution data.

    One function, two moments: the end of stage (a), and the start of stage (b) when stage (a)
    was reused, since a skipped fit has no end. Predictions of all ranks are gathered, rank 0
    clusters, and its status and result are broadcast, so that a failure there stops every rank.

    Args:
        settings: How the dictionary is built.
        teacher_sha256: Hash of the teacher's weights, for the provenance.
        data_key: Content address of the substitution data, for the provenance.
        path: Where a dictionary of these settings lies, or will lie.
        recording: Substitution data of this rank, when stage (a) was reused.
        cost: Time and memory are added to this.
    """

    def __init__(
        self,
        settings: DictionarySettings,
        *,
        teacher_sha256: str,
        data_key: str,
        path: Path,
        cost: Measurement,
        recording: Recording | None = None,
    ) -> None:
        self.settings = settings
        self.teacher_sha256, self.data_key = teacher_sha256, data_key
        self.path, self.cost = path, cost
        self.recording = recording
        self.dictionary: ConfounderDictionary | None = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End of stage (a): build."""
        if isinstance(pl_module, SubstitutionModule):
            self.recording = pl_module.recording()
            self.dictionary = self.build(self.recording)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start of stage (b): build or read what is still missing, and hand it over."""
        if not isinstance(pl_module, KDCIMixin):
            return
        if self.dictionary is None:
            if self.recording is None:
                raise RuntimeError("Expected stage (a) or its recording before stage (b)")
            self.dictionary = self.read(self.recording) or self.build(self.recording)
        pl_module.load_dictionary(self.dictionary)

    def read(self, recording: Recording) -> ConfounderDictionary | None:
        """A dictionary of the same settings and data, if one was saved before and is whole."""
        rows = self._gather(recording)

        def load() -> ConfounderDictionary | None:
            if not self.path.is_file():
                return None
            try:
                found = ConfounderDictionary.load(
                    self.path,
                    teacher_sha256=self.teacher_sha256,
                    space=self.settings.space,
                    dim=rows.shape[1],
                )
            except DamagedError as error:
                _log.warning("%s; it is built again", error)
                return None
            expected = asdict(self.settings) | {"predictions_sha256": sha256_tensors(rows)}
            if any(found.provenance.get(key) != value for key, value in expected.items()):
                _log.warning("'%s' is of other settings or data; it is built again", self.path)
                return None
            return found

        return on_rank_zero(load)

    def _gather(self, recording: Recording) -> Tensor:
        rows = predictions_of(recording, self.settings.space)
        return gather_rows(rows.to(recording.device)).cpu()

    def build(self, recording: Recording, *, save: bool = True) -> ConfounderDictionary:
        """Gather, cluster on rank 0, save, broadcast, and compare checksums."""
        with measured(self.cost):
            rows = self._gather(recording)

            def fit() -> ConfounderDictionary:
                dictionary = fit_dictionary(
                    rows,
                    self.settings,
                    teacher_sha256=self.teacher_sha256,
                    data_key=self.data_key,
                    predictions_sha256=sha256_tensors(rows),
                )
                if save:
                    with lock(self.path):
                        remove_leftovers(self.path.parent, self.path.name)
                        dictionary.save(self.path)
                return dictionary

            dictionary = on_rank_zero(fit)
            require_equal_on_all_ranks(
                (dictionary.prototypes, dictionary.prior), "confounder dictionaries"
            )
        return dictionary
