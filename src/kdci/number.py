"""How many clusters predictions have: ``kdci.N=auto``."""

import logging

import numpy as np

from src.common.errors import UserError
from src.common.seeding import derive_seed
from src.kdci.kmeans import Float, count_distinct, kmeans

_log = logging.getLogger(__name__)
_CANDIDATES = (2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128)
_LARGEST_SAMPLE = 4000  # silhouettes take time and memory that grow with its square
_RESTARTS = 5  # so that candidates differ in their number, not in their luck
_ROWS_A_CLUSTER = 10
LEAST_DISTINCT = 3
"""Rows that differ; two clusters of two rows have no silhouette."""


def choose_number(rows: Float, *, iterations: int, seed: int) -> tuple[int, dict[str, float]]:
    """The number of clusters of the largest mean silhouette, and the silhouettes of all tried.

    Reads nothing but the rows: the teacher's predictions on substitution data.

    Args:
        rows: Predictions ``[M, d]``; of more than 4,000 a random part is used.
        iterations: Of k-means.
        seed: Seed of the part and of k-means.

    Raises:
        UserError: If fewer than three rows of the part are distinct.

    Source: Rousseeuw, Silhouettes: a graphical aid to the interpretation and validation of
    cluster analysis, 1987.
    """
    from sklearn.metrics import silhouette_score  # takes seconds to import

    draws = np.random.default_rng(derive_seed(seed, "number of clusters"))
    part = draws.permutation(len(rows))[:_LARGEST_SAMPLE]
    sample = np.ascontiguousarray(rows[part])
    distinct = count_distinct(sample, _CANDIDATES[-1] + 1)
    if distinct < LEAST_DISTINCT:
        raise UserError(
            f"Expected at least {LEAST_DISTINCT} distinct teacher predictions with kdci.N=auto, "
            f"but got {distinct} among the {len(sample)} that it looks at (after PCA, if any); "
            "set kdci.N to a number, or raise substitution.num_images"
        )
    silhouettes = {}
    for count in _CANDIDATES:
        if count >= distinct or (count > 2 and count * _ROWS_A_CLUSTER > len(sample)):
            break
        found = kmeans(sample, count, iterations=iterations, restarts=_RESTARTS, seed=seed)
        silhouettes[str(count)] = float(silhouette_score(sample, found.assignment))
    best = max(silhouettes, key=lambda count: silhouettes[count])
    shown = ", ".join(f"{count}: {value:.3f}" for count, value in silhouettes.items())
    _log.info("kdci.N=auto: %s clusters, by the silhouettes %s", best, shown)
    return int(best), silhouettes
