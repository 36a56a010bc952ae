"""From recorded predictions to the confounder dictionary, or to one that was built before."""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from src.common.distributed import gather_rows, on_rank_zero, require_equal_on_all_ranks
from src.common.errors import UserError
from src.common.files import lock, remove_leftovers, sha256_tensors
from src.common.measure import Measurement, measured
from src.common.sealed import DamagedError
from src.kdci.clustering import Clustering
from src.kdci.dictionary import ConfounderDictionary, Space, predictions_of
from src.substitution.module import Recording

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DictionaryBuilder:
    """Clusters the teacher's predictions on all substitution data, once.

    Predictions of all ranks are gathered, rank 0 clusters, and its status and result are
    broadcast, so that a failure there stops every rank.

    Attributes:
        clustering: How the dictionary is made.
        teacher_sha256: Hash of the teacher's weights, for the provenance.
        data_key: Content address of the substitution data, for the provenance.
        path: Where a dictionary of these settings lies, or will lie.
        cost: Time and memory of building are added to this.
    """

    clustering: Clustering
    teacher_sha256: str
    data_key: str
    path: Path
    cost: Measurement

    def obtain(self, recording: Recording) -> ConfounderDictionary:
        """What an equal run has kept, or else what is built now.

        Raises:
            UserError: If it is of another teacher, or cannot be built.
        """
        return self.read(recording) or self.build(recording)

    def read(self, recording: Recording) -> ConfounderDictionary | None:
        """A dictionary of the same settings and data, if one was saved before and is whole."""
        rows = _gather(recording, self.clustering.space)

        def load() -> ConfounderDictionary | None:
            if not self.path.is_file():
                return None
            try:
                found = ConfounderDictionary.load(
                    self.path,
                    teacher_sha256=self.teacher_sha256,
                    space=self.clustering.space,
                    dim=rows.shape[1],
                )
            except DamagedError as error:
                _log.warning("%s; it is built again", error)
                return None
            expected = self._settings | {"predictions_sha256": sha256_tensors(rows)}
            if any(found.provenance.get(key) != value for key, value in expected.items()):
                _log.warning("'%s' is of other settings or data; it is built again", self.path)
                return None
            return found

        found = on_rank_zero(load)
        if found is not None:
            _mention_one_class(found)
        return found

    @property
    def _settings(self) -> dict[str, Any]:
        """What every clustering has."""
        return self.clustering.settings_of(Clustering)

    def build(self, recording: Recording) -> ConfounderDictionary:
        """Cluster, and keep the dictionary for other runs.

        Raises:
            UserError: If it cannot be built or kept; see :meth:`Clustering.fit`.
        """
        with measured(self.cost):
            dictionary = self.cluster(recording)

            def save() -> None:
                with lock(self.path):
                    remove_leftovers(self.path.parent, self.path.name)
                    dictionary.save(self.path)

            on_rank_zero(save)
        return dictionary

    def cluster(self, recording: Recording) -> ConfounderDictionary:
        """Gather, cluster on rank 0, broadcast, and compare checksums.

        Raises:
            UserError: If it cannot be built; see :meth:`Clustering.fit`.
        """
        rows = _gather(recording, self.clustering.space)
        logits = rows if self.clustering.space == "logits" else _gather(recording, "logits")

        def fit() -> ConfounderDictionary:
            origin = {
                "teacher_sha256": self.teacher_sha256,
                "data_key": self.data_key,
                "predictions_sha256": sha256_tensors(rows),
            }
            made = self.clustering.fit(rows, logits, **origin)
            # What a reuse asks for; a clustering of somebody else's may have noted none of it.
            found = made.provenance | self._settings | origin
            _require_plain(found, type(self.clustering).__name__)
            return replace(made, provenance=found)

        dictionary = on_rank_zero(fit)
        require_equal_on_all_ranks(
            (dictionary.prototypes, dictionary.prior, dictionary.counts), "confounder dictionaries"
        )
        _mention_one_class(dictionary)
        return dictionary


def _require_plain(provenance: dict[str, Any], of: str) -> None:
    """Check what will be written down."""
    for key, value in provenance.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"Expected numbers, strings, lists and dicts in the provenance of a dictionary, "
                f"but {of} notes {key}={value!r}; let its fit note str({key}), or leave it out"
            ) from error


def _mention_one_class(dictionary: ConfounderDictionary) -> None:
    of_class = dictionary.counts.sum(0)
    if int((of_class > 0).sum()) == 1:
        _log.warning(
            "The teacher calls all %d images of the substitution data class %d: the confounder "
            "dictionary says nothing of classes",
            int(of_class.sum()),
            int(of_class.argmax()),
        )


def _gather(recording: Recording, space: Space) -> Tensor:
    """What would be clustered in a space, of all ranks, ``[M, d]``."""
    return gather_rows(predictions_of(recording, space).to(recording.device)).cpu()
