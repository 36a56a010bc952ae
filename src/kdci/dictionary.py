"""The confounder dictionary: prototypes z_i and priors P(z_i) of the substitution data."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

from safetensors import safe_open
from torch import Tensor

from src.common.errors import UserError
from src.common.files import atomic_write, content_hash, sha256_tensors
from src.common.sealed import DamagedError
from src.common.tensors import save_tensors
from src.substitution.module import Recording

Space = Literal["logits", "features"]
_DIGEST = "digest"
_SUM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ConfounderDictionary:
    """Prototypes ``[N, d]`` float32, priors ``[N]`` > 0 summing to 1, and where they come from.

    Attributes:
        prototypes: z_i, mean of the teacher predictions of cluster i.
        prior: P(z_i) = M_i / M, descending.
        counts: ``[N, K]`` int64: in cluster i, how many samples the teacher calls class c;
            float64 where samples do not count alike.
        provenance: JSON-able facts: settings, M, inertia, hashes of teacher and data.
    """

    prototypes: Tensor
    prior: Tensor
    counts: Tensor
    provenance: dict[str, Any]

    @property
    def space(self) -> Space:
        """What the prototypes are."""
        return cast("Space", self.provenance.get("space", "logits"))

    def save(self, path: Path) -> None:
        """Write as safetensors, the provenance and a digest of everything in its header."""
        # One entry: safetensors writes several in random order, and equal files are worth having.
        provenance = json.dumps(self.provenance | {_DIGEST: self._digest()})
        with atomic_write(path) as temporary:
            save_tensors(
                {"prototypes": self.prototypes, "prior": self.prior, "counts": self.counts},
                temporary,
                metadata={"provenance": provenance},
            )

    def _digest(self) -> str:
        return content_hash(
            [sha256_tensors(self.prototypes, self.prior, self.counts), self.provenance]
        )

    @classmethod
    def load(cls, path: Path, *, teacher_sha256: str, space: Space, dim: int) -> Self:
        """Read a dictionary and check that it belongs to this teacher and space.

        Raises:
            DamagedError: If the file is not what :meth:`save` wrote.
            UserError: If it is, but was built for another teacher, space or width.
        """
        dictionary = cls._read(path)
        facts, prototypes = dictionary.provenance, dictionary.prototypes
        found = (str(facts.get("teacher_sha256")), facts.get("space"), prototypes.shape[1])
        if found != (teacher_sha256, space, dim):
            raise UserError(
                f"Expected the confounder dictionary '{path}' to be of this teacher "
                f"({teacher_sha256[:12]}, {space}, width {dim}), but it is of "
                f"({found[0][:12]}, {found[1]}, width {found[2]}); delete it to rebuild"
            )
        return dictionary

    @classmethod
    def _read(cls, path: Path) -> Self:
        """A dictionary that is whole, whoever it belongs to."""
        if not path.is_file():
            raise DamagedError(f"The confounder dictionary '{path}' is missing")
        try:
            with safe_open(path, "pt") as file:
                provenance = json.loads(file.metadata()["provenance"])
                digest = provenance.pop(_DIGEST)
                dictionary = cls(
                    file.get_tensor("prototypes"),
                    file.get_tensor("prior"),
                    file.get_tensor("counts"),
                    provenance,
                )
            is_as_written = digest == dictionary._digest()
        except Exception as error:
            raise DamagedError(
                f"The confounder dictionary '{path}' cannot be read "
                f"({type(error).__name__}: {error})"
            ) from error
        if not is_as_written:
            raise DamagedError(
                f"The confounder dictionary '{path}' has been altered: its checksum differs"
            )
        prior = dictionary.prior
        is_distribution = (prior > 0).all() and abs(float(prior.sum()) - 1) < _SUM_TOLERANCE
        if not (dictionary.prototypes.isfinite().all() and is_distribution):
            raise DamagedError(
                f"The confounder dictionary '{path}' holds prototypes that are not finite, or a "
                "prior that is no distribution"
            )
        return dictionary


def predictions_of(recording: Recording, space: Space) -> Tensor:
    """The rows that are clustered, ``[M, d]``."""
    return recording.logits if space == "logits" else recording.features
