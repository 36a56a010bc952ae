import math
from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.kdci.dictionary import ConfounderDictionary
from src.kdci.weighting import InversePropensityWeighting

# Two clusters, three classes; shares of the classes 1/2, 3/8, 1/8, of the clusters 5/8, 3/8.
COUNTS = [[40, 10, 0], [0, 20, 10]]
FAR = torch.tensor([[9.0, 0, 0], [0, 0, 9.0]])


def dictionary(counts: list[list[int]] | Tensor, space: str = "logits") -> ConfounderDictionary:
    counts = torch.as_tensor(counts)
    prior = counts.sum(1) / counts.sum()
    return ConfounderDictionary(FAR, prior.float(), counts, {"space": space})


def make(
    counts: Any = COUNTS, space: str = "logits", **options: Any
) -> InversePropensityWeighting:
    given = dictionary(counts, space)
    return InversePropensityWeighting(given, num_classes=3, seed=0, **({"gamma": 1.0} | options))


def logits_of(cluster: int, label: int) -> Tensor:
    """A prediction of a class, near a prototype."""
    logits = FAR[cluster].clone()
    logits[label] = 10
    return logits


def relative(module: InversePropensityWeighting, *cells: tuple[int, int]) -> list[float]:
    weights = module.weights(torch.stack([logits_of(*cell) for cell in cells]))
    assert weights is not None
    return (weights / weights.min()).tolist()


def test_classes_become_even() -> None:
    cells = ((0, 0), (0, 1), (1, 1), (1, 2))
    assert relative(make(), *cells) == pytest.approx([1, 40 / 30, 40 / 30, 4])


def test_half_of_gamma_is_the_square_root() -> None:
    assert relative(make(gamma=0.5), (0, 0), (1, 2)) == pytest.approx([1, 2])


def test_clusters_become_even() -> None:
    module = make(strata="cluster")
    assert relative(module, (0, 0), (1, 2)) == pytest.approx([1, 50 / 30])


def test_clusters_within_classes_become_even() -> None:
    # Total 80; class 0 lies in one cluster of 40, class 1 in clusters of 10 and 20, class 2 of 10.
    module = make(strata="both")
    expected = [1 / 40, 1 / 2 / 10, 1 / 2 / 20, 1 / 10]
    expected = [each / min(expected) for each in expected]
    assert relative(module, (0, 0), (0, 1), (1, 1), (1, 2)) == pytest.approx(expected)


def test_the_largest_weight_is_one_and_no_stratum_beyond_the_limit() -> None:
    module = make([[9990, 5, 5], [0, 0, 0]], largest=2.0)
    weights = module.weights(torch.eye(3))
    assert weights is not None
    # The first class has weight 1/3 / 0.999 / 1 of mean 1; the others are cut from 667 to 2.
    assert weights.tolist() == pytest.approx([1 / 3 / 0.999 / 2, 1, 1])


@pytest.mark.parametrize("strata", ["class", "cluster", "both"])
def test_without_gamma_nothing_is_weighed(strata: str) -> None:
    assert make(strata=strata, gamma=0.0).weights(torch.eye(3)) is None


def test_even_data_are_left_alone() -> None:
    assert make([[10, 0, 10], [10, 20, 10]]).weights(torch.eye(3)) is None


def test_gamma_is_lowered_until_enough_data_count() -> None:
    counts = torch.tensor([[900.0, 90, 10], [0, 0, 0]])
    module = make(counts.long(), gamma="auto", min_effective=0.5, largest=1e9)
    gamma = module.facts["gamma"]

    def effective(power: float) -> float:
        weights = (1000 / 3 / counts[0]) ** power
        first, second = (counts[0] * weights).sum(), (counts[0] * weights**2).sum()
        return float(first**2 / second / 1000)

    assert effective(gamma) >= 0.5 > effective(gamma + 0.01)
    assert module.facts["effective"] == pytest.approx(effective(gamma))
    assert make(gamma="auto", min_effective=0.1).facts["gamma"] == 1


def test_a_class_that_never_came_is_no_fault() -> None:
    weights = make([[10, 0, 30], [0, 0, 0]]).weights(torch.eye(3))
    assert weights is not None
    assert weights.isfinite().all()
    assert weights.tolist()[::2] == pytest.approx([1, 1 / 3])
    assert 0 < weights[1] <= 1


def test_a_new_dictionary_is_weighed_anew() -> None:
    module = make()
    module.load(dictionary([[10, 10, 20], [0, 0, 0]]))
    assert relative(module, (0, 0), (1, 2)) == pytest.approx([2, 1])


@pytest.mark.parametrize("strata", ["cluster", "both"])
def test_clusters_of_features_are_refused(strata: str) -> None:
    with pytest.raises(UserError, match=rf"space=logits with kdci.adjustment.strata={strata}"):
        make(space="features", strata=strata)
    assert not math.isnan(make(space="features").facts["gamma"])
