from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import pytest
from sklearn.cluster import KMeans

from src.kdci.kmeans import Assignment, _fill_empty, count_distinct, kmeans, project


def blobs(*sizes: int, dim: int = 3, spread: float = 0.1) -> np.ndarray[Any, Any]:
    """Well separated groups of rows, one after another, float32."""
    draws = np.random.default_rng(0)
    groups = [20 * k + spread * draws.standard_normal((m, dim)) for k, m in enumerate(sizes)]
    return np.concatenate(groups).astype(np.float32)


def cluster(rows: np.ndarray[Any, Any], count: int, **options: Any) -> Assignment:
    return kmeans(rows, count, **({"iterations": 25, "restarts": 1, "seed": 0} | options))


def inertia(rows: np.ndarray[Any, Any], assignment: np.ndarray[Any, Any]) -> float:
    """Sum of squared distances of all rows to the mean of their cluster, float64."""
    exact = rows.astype(np.float64)
    groups = [exact[assignment == c] for c in np.unique(assignment)]
    return float(sum(((group - group.mean(0)) ** 2).sum() for group in groups))


def nearest_mean(rows: np.ndarray[Any, Any], assignment: np.ndarray[Any, Any]) -> Any:
    means = np.stack([rows[assignment == c].mean(0) for c in range(assignment.max() + 1)])
    return ((rows[:, None] - means) ** 2).sum(2).argmin(1)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    yield
    faiss.omp_set_num_threads(before)


def test_finds_separated_groups() -> None:
    assignment = cluster(blobs(50, 30, 20), 3).assignment
    first, second, third = assignment[0], assignment[50], assignment[80]
    assert len({first, second, third}) == 3
    assert (assignment == np.repeat([first, second, third], [50, 30, 20])).all()


def test_uses_every_row_however_many_there_are() -> None:
    rows = blobs(2000, 1000, spread=2)  # FAISS alone would train on 512 of them
    assignment, history = cluster(rows, 2)
    assert history[-1] == pytest.approx(inertia(rows, assignment), rel=1e-4)
    assert (assignment == nearest_mean(rows, assignment)).all()


def test_inertia_never_rises() -> None:
    rows = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32)
    history = cluster(rows, 10).inertia
    assert 1 < len(history) <= 25
    assert history[-1] < history[0]
    assert (np.diff(history) <= 1e-3).all()


def test_more_restarts_are_never_worse() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    finals = [inertia(rows, cluster(rows, 12, restarts=n).assignment) for n in (1, 10)]
    assert finals[1] < finals[0]


def trapped() -> np.ndarray[Any, Any]:
    """Nine groups of three sizes and widths: many runs put two centroids into one of them."""
    draws = np.random.default_rng(4)
    parts = [
        (8 * np.array([k % 3, k // 3]) + spread * draws.standard_normal((count, 2)))
        for k, (count, spread) in enumerate([(80, 1.0), (20, 0.3), (5, 0.1)] * 3)
    ]
    return np.concatenate(parts).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_restarts_keep_the_best_run_and_its_inertia_alone(seed: int) -> None:
    rows = trapped()
    results = [cluster(rows, 9, seed=seed, restarts=n, iterations=6) for n in range(1, 9)]
    finals = [result.inertia[-1] for result in results]
    assert finals == sorted(finals, reverse=True)
    for result in results:
        assert len(result.inertia) <= 6
        assert (np.diff(result.inertia) <= 1e-5 * result.inertia[0]).all()
        assert result.inertia[-1] >= inertia(rows, result.assignment) * (1 - 1e-5)


def test_without_restarts_many_of_these_runs_are_trapped() -> None:
    rows = trapped()
    single = [cluster(rows, 9, seed=seed).inertia[-1] for seed in range(6)]
    several = [cluster(rows, 9, seed=seed, restarts=8).inertia[-1] for seed in range(6)]
    assert max(single) > 1.2 * min(single)
    assert max(several) < 1.05 * min(single)


def test_the_first_run_is_that_of_the_seed() -> None:
    rows = blobs(50, 30, 20)
    once, often = (cluster(rows, 3, seed=5, restarts=n) for n in (1, 4))
    assert once.inertia[-1] == often.inertia[-1]  # all runs find these groups: the first is kept
    assert once.inertia == often.inertia
    assert (once.assignment == often.assignment).all()


def test_reaches_the_inertia_of_another_implementation() -> None:
    rows = blobs(50, 30, 20, 40, spread=1.5)
    reference = KMeans(4, n_init=10, random_state=0).fit(rows)
    found = cluster(rows, 4, restarts=5)
    assert found.inertia[-1] == pytest.approx(reference.inertia_, rel=1e-4)
    assert inertia(rows, found.assignment) == pytest.approx(reference.inertia_, rel=1e-4)


def test_repeats_bit_for_bit_from_the_seed() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    first, again, other = (cluster(rows, 12, seed=seed) for seed in (3, 3, 4))
    assert (first.assignment == again.assignment).all()
    assert first.inertia == again.inertia
    assert first.inertia != other.inertia


def test_takes_seeds_beyond_32_bits() -> None:
    assert len(cluster(blobs(5, 5), 2, seed=2**40 + 1).assignment) == 10


@pytest.mark.parametrize("distinct", range(2, 12))
def test_no_cluster_is_empty_and_equal_rows_stay_together(distinct: int) -> None:
    values = np.random.default_rng(distinct).standard_normal((distinct, 2)).astype(np.float32)
    rows = np.repeat(values, np.arange(1, distinct + 1), axis=0)
    for count in range(1, distinct + 1):
        assignment = cluster(rows, count).assignment
        assert set(assignment) == set(range(count))
        groups = np.split(assignment, np.cumsum(np.arange(1, distinct)))
        assert all(len(set(group)) == 1 for group in groups)


def test_the_row_of_a_cluster_of_its_own_is_not_moved() -> None:
    rows = np.array([[0.0], [1], [9]], dtype=np.float32)
    distances = np.array([0, 1, 5], dtype=np.float32)
    assert _fill_empty(rows, np.array([0, 0, 1]), distances, 3).tolist() == [0, 2, 1]


def test_twins_that_were_moved_are_not_moved_again() -> None:
    rows = np.array([[0.0], [9], [9], [5]], dtype=np.float32)
    distances = np.array([0, 81, 81, 25], dtype=np.float32)
    assert _fill_empty(rows, np.zeros(4, dtype=np.int64), distances, 3).tolist() == [0, 1, 1, 2]


def test_says_nothing_about_few_or_many_rows(capfd: pytest.CaptureFixture[str]) -> None:
    cluster(blobs(3, 2), 4)
    cluster(blobs(1000, 1000), 2)
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_is_put_back() -> None:
    cluster(blobs(5, 5), 2)
    project(blobs(5, 5), 2)
    assert faiss.omp_get_max_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_is_put_back_after_a_failure() -> None:
    with pytest.raises(RuntimeError, match="cannot output 4 dimensions from 3"):
        project(blobs(5, 5), 4)  # wider than the rows
    assert faiss.omp_get_max_threads() == 2


def test_projection_keeps_what_varies_most() -> None:
    draws = np.random.default_rng(0).standard_normal((200, 3)) * [0.01, 5, 1]
    projected = project(draws.astype(np.float32), 2)
    assert projected.shape == (200, 2)
    for axis, column in ((0, 1), (1, 2)):
        assert abs(np.corrcoef(projected[:, axis], draws[:, column])[0, 1]) > 0.99


def test_projection_looks_at_every_row() -> None:
    draws = np.random.default_rng(0).standard_normal((5000, 2)) * [3, 1]
    draws[::3] = draws[::3, ::-1] * 2  # a part of them has other axes
    rows = draws.astype(np.float32)
    centred = rows - rows.mean(0, dtype=np.float64)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    projected = project(rows, 1)[:, 0]
    error = min(np.abs(projected - sign * centred @ axis).max() for sign in (-1, 1))
    assert error < 1e-3


@pytest.mark.parametrize("distinct", [1, 2, 7, 300])
def test_distinct_rows_are_counted_up_to_what_is_enough(distinct: int) -> None:
    draws = np.random.default_rng(distinct)
    values = draws.integers(-1, 2, (distinct, 6)).astype(np.float32)
    rows = values[draws.integers(distinct, size=9000)]
    rows[(rows == 0) & (draws.random(rows.shape) < 0.5)] = -0.0
    true = len(np.unique(rows, axis=0))
    assert count_distinct(rows, 10_000) == true
    for enough in (1, true - 1, true, true + 1):
        assert count_distinct(rows, enough) == min(max(enough, 1), true)


def test_the_sign_of_zero_makes_no_row_distinct() -> None:
    rows = np.array([[0.0, 1], [-0.0, 1], [0.0, -1]], dtype=np.float32)
    assert count_distinct(rows, 9) == len(np.unique(rows, axis=0)) == 2
    assert np.signbit(rows[1, 0])  # the rows are left as they are


def test_the_last_of_many_rows_counts() -> None:
    rows = np.zeros((10_000, 2), dtype=np.float32)
    assert count_distinct(rows, 2) == 1
    rows[-1, 1] = 1e-45  # the smallest there is
    assert count_distinct(rows, 2) == 2


@pytest.mark.usefixtures("two_threads")
def test_it_runs_on_one_thread_whatever_the_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, kind = [], faiss.Kmeans

    def watched(*args: Any, **options: Any) -> Any:
        seen.append(faiss.omp_get_max_threads())
        return kind(*args, **options)

    monkeypatch.setattr(faiss, "Kmeans", watched)
    cluster(blobs(5, 5), 2)
    assert seen == [1]


def test_every_seed_is_a_start_of_its_own() -> None:
    rows = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    finals = {cluster(rows, 12, seed=seed).inertia[-1] for seed in (0, 2, 4, 6)}
    assert len(finals) == 4


def test_runs_of_one_iteration_are_compared_too() -> None:
    finals = [cluster(trapped(), 9, restarts=n, iterations=1).inertia for n in (1, 8)]
    assert [len(final) for final in finals] == [1, 1]
    assert finals[1] < finals[0]


def test_a_shared_coordinate_makes_no_twins() -> None:
    rows = np.array([[0.0, 0], [0, 1], [0, 9]], dtype=np.float32)
    distances = np.array([0, 1, 81], dtype=np.float32)
    assert _fill_empty(rows, np.zeros(3, dtype=np.int64), distances, 2).tolist() == [0, 0, 1]
