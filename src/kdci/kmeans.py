"""K-means with k-means++ initialisation; the only place that knows FAISS."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.common.seeding import derive_seed

Float = NDArray[np.float32]
_ROWS = 4096  # that are looked at together


class Assignment(NamedTuple):
    """Cluster of every row ``[M]`` int64, and the inertia of every iteration that was run."""

    assignment: NDArray[np.int64]
    inertia: list[float]


@contextmanager
def _one_thread() -> Iterator[Any]:
    """FAISS on one thread: it repeats bit for bit only at a fixed number, and one is fastest."""
    # The loader reports every instruction set that it tries.
    logging.getLogger("faiss.loader").setLevel(logging.WARNING)
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)


def project(rows: Float, dim: int) -> Float:
    """PCA of ``rows`` ``[M, d]`` to ``[M, dim]``."""
    with _one_thread() as faiss:
        pca = faiss.PCAMatrix(rows.shape[1], dim)
        pca.max_points_per_d = len(rows)  # by default it looks at 1000 rows a dimension at most
        pca.train(rows)
        projected: Float = pca.apply(rows)
    return projected


def count_distinct(rows: Float, enough: int) -> int:
    """Distinct rows of ``[M, d]``, or ``enough`` as soon as there are so many."""
    seen: set[bytes] = set()
    for start in range(0, len(rows), _ROWS):
        for row in rows[start : start + _ROWS] + np.float32(0):  # -0.0 equals 0.0
            seen.add(row.tobytes())
            if len(seen) >= enough:
                return len(seen)
    return len(seen)


def kmeans(
    rows: Float, num_clusters: int, *, iterations: int, restarts: int, seed: int
) -> Assignment:
    """Cluster all of ``rows`` ``[M, d]`` into ``num_clusters`` non-empty clusters.

    FAISS by default trains on at most 256 rows a centroid and warns below 39; both limits are
    lifted, so nothing is left out silently. Repeats bit for bit from ``seed``. Restarts are ours:
    FAISS's own would join the inertia of several runs. A run ends early once inertia stays equal.

    Args:
        rows: Float32, contiguous; at least ``num_clusters`` of them distinct.
        num_clusters: N.
        iterations: Lloyd iterations at most.
        restarts: Runs from new initialisations; the first of the lowest final inertia is kept.
        seed: Seed of the initialisations; the first run's own.
    """
    seeds = [seed, *(derive_seed(seed, "restart", run) for run in range(1, restarts))]
    with _one_thread() as faiss:

        def run(own_seed: int) -> tuple[Any, list[float]]:
            search = faiss.Kmeans(
                rows.shape[1],
                num_clusters,
                niter=iterations,
                seed=own_seed % 2**31,
                init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
                min_points_per_centroid=1,
                max_points_per_centroid=len(rows),
            )
            search.train(rows)
            return search, np.asarray(search.obj, dtype=float).tolist()

        best, inertia = run(seeds[0])
        for own_seed in seeds[1:]:
            found, history = run(own_seed)
            if history[-1] < inertia[-1]:
                best, inertia = found, history
        distances, nearest = best.index.search(rows, 1)
    assignment = _fill_empty(rows, nearest[:, 0].astype(np.int64), distances[:, 0], num_clusters)
    return Assignment(assignment, inertia)


def _fill_empty(
    rows: Float, assignment: NDArray[np.int64], distances: Float, num_clusters: int
) -> NDArray[np.int64]:
    """Give every empty cluster the row farthest from its centroid, with that row's twins.

    Only rows at a distance are moved, so a cluster of identical rows is never emptied. FAISS
    splits clusters that fall empty while training; one may still end empty when the distinct
    rows hardly outnumber the clusters.
    """
    for cluster in np.flatnonzero(np.bincount(assignment, minlength=num_clusters) == 0):
        sizes = np.bincount(assignment, minlength=num_clusters)
        farthest = np.where(sizes[assignment] > 1, distances, -1).argmax()
        twins = (rows == rows[farthest]).all(1)
        assignment[twins], distances[twins] = cluster, 0
    return assignment
