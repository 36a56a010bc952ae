"""The confounder dictionary: prototypes z_i and priors P(z_i) of the substitution data."""

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from src.common.errors import UserError
from src.common.files import atomic_write, content_hash, sha256_tensors
from src.common.sealed import DamagedError
from src.common.seeding import generator
from src.kdci.kmeans import kmeans, project
from src.substitution.module import Recording

Space = Literal["logits", "features"]
_DIGEST = "digest"
_SUM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class DictionarySettings:
    """How a dictionary is built; equal settings on equal data give an equal dictionary.

    Attributes:
        num_prototypes: N.
        space: What is clustered: the teacher's logits or its penultimate features.
        pca_dim: Dimension after PCA, or None for no PCA.
        prototypes: ``kmeans``, or ``random`` (ablation: same shape, matched mean and scale).
        iterations: Lloyd iterations.
        restarts: K-means runs, the one of the lowest inertia is kept.
        seed: Seed of k-means and of random prototypes.
    """

    num_prototypes: int
    space: Space = "logits"
    pca_dim: int | None = None
    prototypes: Literal["kmeans", "random"] = "kmeans"
    iterations: int = 25
    restarts: int = 1
    seed: int = 0


@dataclass(frozen=True)
class ConfounderDictionary:
    """Prototypes ``[N, d]`` float32, priors ``[N]`` > 0 summing to 1, and where they come from.

    Attributes:
        prototypes: z_i, mean of the teacher predictions of cluster i.
        prior: P(z_i) = M_i / M, descending.
        provenance: JSON-able facts: settings, M, inertia, hashes of teacher and data.
    """

    prototypes: Tensor
    prior: Tensor
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
            save_file(
                {"prototypes": self.prototypes, "prior": self.prior},
                temporary,
                metadata={"provenance": provenance},
            )

    def _digest(self) -> str:
        return content_hash([sha256_tensors(self.prototypes, self.prior), self.provenance])

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
                    file.get_tensor("prototypes"), file.get_tensor("prior"), provenance
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


def fit_dictionary(
    rows: Tensor, settings: DictionarySettings, **origin: Any
) -> ConfounderDictionary:
    """Cluster the teacher's predictions and summarise every cluster.

    Differs from the paper: prototypes are means of the predictions before PCA, so that they lie
    in the teacher's own space whatever PCA did (the paper leaves this open).

    Args:
        rows: Teacher predictions of all substitution samples ``[M, d]``.
        settings: How.
        origin: Facts for the provenance, e.g. ``teacher_sha256``.

    Raises:
        UserError: If N exceeds the number of distinct predictions, a prediction is not finite
            or too large, or ``pca_dim`` does not reduce or exceeds what the rows span.

    Source: Wang et al., De-confounded Data-free Knowledge Distillation for Handling Distribution
    Shifts, CVPR 2024, arXiv:2403.19539.
    """
    data = np.ascontiguousarray(rows.float().cpu().numpy())
    _check(data, settings)
    reduced = data if settings.pca_dim is None else project(data, settings.pca_dim)
    clustering = kmeans(
        reduced,
        settings.num_prototypes,
        iterations=settings.iterations,
        restarts=settings.restarts,
        seed=settings.seed,
    )
    sizes = np.bincount(clustering.assignment, minlength=settings.num_prototypes)
    if not sizes.all():
        raise UserError(
            f"Expected kdci.N={settings.num_prototypes} non-empty clusters, but predictions are "
            f"too alike for more than {np.count_nonzero(sizes)}; lower kdci.N or set "
            "kdci.pca_dim=null"
        )
    sums = np.zeros((settings.num_prototypes, data.shape[1]))
    np.add.at(sums, clustering.assignment, data)
    order = np.argsort(-sizes, kind="stable")
    prototypes = torch.from_numpy(sums[order] / sizes[order, None]).float()
    if settings.prototypes == "random":
        prototypes = _random_like(prototypes, settings.seed)
    prior = torch.from_numpy(sizes[order] / len(data)).float()
    facts = asdict(settings) | {"num_predictions": len(data), "inertia": clustering.inertia}
    return ConfounderDictionary(
        prototypes, prior, facts | {"faiss": version("faiss-cpu")} | origin
    )


def _check(data: np.ndarray[Any, np.dtype[np.float32]], settings: DictionarySettings) -> None:
    if not np.isfinite(data).all():
        raise UserError("Expected finite teacher predictions, but some are NaN or infinite")
    largest = float(np.abs(data).max())
    if 4 * data.size * largest**2 > float(np.finfo(np.float32).max):  # FAISS would not tell
        raise UserError(
            "Expected teacher predictions whose squared distances add up within float32, but "
            f"they reach {largest:.3g}; check the teacher's checkpoint"
        )
    if settings.pca_dim is not None and not 0 < settings.pca_dim < data.shape[1]:
        raise UserError(
            f"Expected kdci.pca_dim to be below the width {data.shape[1]} of the predictions, "
            f"but got {settings.pca_dim}; null turns PCA off"
        )
    # M rows span M - 1 dimensions around their mean; FAISS fills one more with noise, then fails.
    if settings.pca_dim is not None and settings.pca_dim >= len(data):
        raise UserError(
            f"Expected kdci.pca_dim to be below the number of predictions, but got "
            f"{settings.pca_dim} >= {len(data)}; lower kdci.pca_dim, set it to null, or raise "
            "substitution.num_images"
        )
    distinct = len(np.unique(data, axis=0))
    if settings.num_prototypes > distinct:
        collapsed = " (the substitution data has collapsed)" if distinct < len(data) / 2 else ""
        raise UserError(
            f"Expected kdci.N <= number of distinct teacher predictions, but got "
            f"{settings.num_prototypes} > {distinct} of {len(data)}{collapsed}; lower kdci.N or "
            "raise substitution.num_images"
        )


def _random_like(prototypes: Tensor, seed: int) -> Tensor:
    """Normal rows with the mean and scale, per dimension, of the true prototypes."""
    draws = torch.randn(prototypes.shape, generator=generator("cpu", seed, "random prototypes"))
    return prototypes.mean(0) + draws * prototypes.std(0, correction=0)
