import numpy as np
import pytest
import torch

from src.inside.clusters import class_mix, clusters, principal
from src.kdci.clustering import KMeans
from src.kdci.kmeans import project

ROWS = torch.tensor([[0.0], [1.0], [1.5], [9.0], [10.0], [12.0]])
PROTOTYPES = torch.tensor([[10.0], [1.0]])


def test_rows_belong_to_the_nearest_prototype() -> None:
    found = clusters(ROWS, PROTOTYPES, 3)
    assert found.assignment.tolist() == [1, 1, 1, 0, 0, 0]
    assert found.nearest.tolist() == [[4, 3, 5], [1, 2, 0]]


def test_no_more_rows_are_near_than_there_are() -> None:
    assert clusters(ROWS[:2], PROTOTYPES, 8).nearest.tolist() == [[1, 0], [1, 0]]


def test_many_rows_are_searched_in_parts() -> None:
    rows, prototypes = torch.randn(9000, 3), torch.randn(5, 3)
    distances = torch.cdist(rows.double(), prototypes.double())
    found = clusters(rows, prototypes, 8)
    assert torch.equal(found.assignment, distances.argmin(1))
    assert torch.equal(found.nearest, distances.topk(8, dim=0, largest=False).indices.T)


def test_the_sizes_are_those_of_k_means_that_has_converged() -> None:
    rows = torch.randn(300, 6) + 8 * torch.randn(4, 6)[torch.arange(300) % 4]
    for pca_dim in (None, 2):
        built = KMeans(4, pca_dim=pca_dim, iterations=100).fit(rows)
        pair = rows, built.prototypes
        found = clusters(*(principal(*pair, pca_dim) if pca_dim else pair), 1)
        shares = torch.bincount(found.assignment, minlength=4) / 300
        assert shares.tolist() == pytest.approx(built.prior.tolist())


def test_distances_after_pca_are_those_that_were_clustered() -> None:
    rows = torch.randn(50, 5) * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5])
    ours, point = principal(rows, rows[:1], 2)
    theirs = torch.from_numpy(project(np.ascontiguousarray(rows.numpy()), 2)).double()
    assert torch.allclose(torch.cdist(ours, ours), torch.cdist(theirs, theirs), atol=1e-4)
    assert torch.allclose(point, ours[:1])


def test_the_mix_of_a_cluster_is_of_its_members() -> None:
    assignment, predicted = torch.tensor([0, 0, 2, 0, 0]), torch.tensor([1, 1, 2, 0, 1])
    assert class_mix(assignment, predicted, 3, 3) == [[0.25, 0.75, 0.0], None, [0.0, 0.0, 1.0]]
