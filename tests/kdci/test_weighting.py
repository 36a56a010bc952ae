import math
from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.dataset.contract import ImageSpec
from src.kdci.dictionary import ConfounderDictionary
from src.kdci.weighting import InversePropensityWeighting
from src.substitution.batches import ReplayBatches
from src.substitution.image_bank import ImageBank
from tests.toys import filled_bank

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


def bank_of(count: int) -> ImageBank:
    """As many images, of which nothing matters."""
    return filled_bank(ImageSpec(3, 2, (0.5,) * 3, (0.25,) * 3), count)


def drawn_shares(sizes: list[list[int]], module: InversePropensityWeighting) -> Tensor:
    """Shares of the classes in an epoch of replay, banks of as many samples of each class."""
    labels = [torch.arange(3).repeat_interleave(torch.tensor(each)) for each in sizes]
    banks = [bank_of(len(each)) for each in labels]
    inclusion = module.weights_within([torch.eye(3)[each] for each in labels])
    batches = ReplayBatches(banks, batch_size=100, steps=200, seed=0, inclusion=inclusion)
    met = [each[batches._order(i).flatten()] for i, each in enumerate(labels)]
    return torch.cat(met).bincount(minlength=3) / sum(map(len, met))


@pytest.mark.parametrize("sizes", [[[700, 200, 100], [1000, 1000, 2000]], [[30, 60, 10]]])
def test_what_is_replayed_is_even_whatever_the_banks_sizes(sizes: list[list[int]]) -> None:
    union = torch.tensor(sizes).sum(0)
    module = make(torch.stack([union, torch.zeros_like(union)]))
    torch.testing.assert_close(
        drawn_shares(sizes, module), torch.full((3,), 1 / 3), atol=0.01, rtol=0
    )


def test_half_of_gamma_is_half_of_the_way_within_each_bank() -> None:
    sizes = [[640, 160, 160], [10, 10, 40]]
    module = make([[650, 170, 200], [0, 0, 0]], gamma=0.5)
    # Shares as the roots 2 : 1 : 1 and 1 : 1 : 2, each of half a batch.
    expected = torch.tensor([0.375, 0.25, 0.375])
    torch.testing.assert_close(drawn_shares(sizes, module), expected, atol=0.01, rtol=0)


def test_gamma_of_several_banks_leaves_enough_of_all_together() -> None:
    uneven, even = torch.eye(3)[[0] * 95 + [1] * 4 + [2]], torch.eye(3)[[0, 1, 2] * 5]
    module = make([[100, 9, 6], [0, 0, 0]], gamma="auto", largest=1e9)
    weights = module.weights_within([even, uneven])
    assert weights is not None
    assert weights[0].tolist() == [1] * 15

    def effective(gamma: float) -> float:
        counts = torch.tensor([95.0, 4, 1])
        of = counts**-gamma
        each = [0.5 / 15 * torch.ones(15)]  # a half of a batch from each bank
        each += [
            0.5 * weight / (counts * of).sum() * torch.ones(int(n))
            for n, weight in zip(counts, of, strict=True)
        ]
        drawn = torch.cat(each)
        plain = torch.cat([torch.full((15,), 0.5 / 15), torch.full((100,), 0.5 / 100)])
        return float(plain.square().sum() / drawn.square().sum())

    gamma = module.facts["gamma"]
    assert module.facts["effective"] == pytest.approx(effective(gamma))
    assert effective(gamma) >= 0.5 > effective(gamma + 0.01)
    assert module.weights_within([even, even]) is None


@pytest.mark.parametrize("strata", ["class", "cluster", "both"])
def test_one_bank_is_weighted_as_the_dictionary_says(strata: str) -> None:
    samples = torch.stack([logits_of(c, k) for c in (0, 1) for k in range(3)])
    module = make(strata=strata)
    weights, facts = module.weights(samples), module.facts
    within = module.weights_within([samples])
    assert weights is not None
    assert within is not None
    assert torch.equal(within[0], weights)
    assert module.facts is facts


@pytest.mark.parametrize("strata", ["cluster", "both"])
def test_strata_of_each_bank_by_cluster(strata: str) -> None:
    cells = [(0, 0)] * 40 + [(0, 1)] * 10 + [(1, 1)] * 20 + [(1, 2)] * 10
    samples = torch.stack([logits_of(*cell) for cell in cells])
    module = make([[1, 1, 1], [1, 1, 1]], strata=strata)
    (expected,) = make(strata=strata).weights_within([samples]) or [samples]
    found = module.weights_within([samples, samples[:1]])
    assert found is not None
    torch.testing.assert_close(found[0], expected)


def test_even_data_of_one_bank_are_left_alone() -> None:
    assert make([[10, 0, 10], [10, 20, 10]]).weights_within([torch.eye(3)]) is None


def test_a_class_that_never_came_has_the_weight_of_the_mean() -> None:
    # Of 40 in two classes 20 each are wanted: ratios 2 and 2/3, of mean 1; of class 1 none.
    weights = make([[10, 0, 30], [0, 0, 0]]).weights(torch.eye(3))
    assert weights is not None
    assert weights.tolist() == pytest.approx([1, 1 / 2, 1 / 3])
