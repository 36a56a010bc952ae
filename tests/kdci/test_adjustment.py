from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from src.kdci.adjustment import Adjustment
from src.kdci.compensation import BackdoorCompensation
from src.kdci.dictionary import ConfounderDictionary
from src.kdci.prior import PriorAdjustment
from src.kdci.standardisation import Standardisation
from src.kdci.weighting import InversePropensityWeighting

N, K = 3, 4
FORMS: list[tuple[type[Adjustment], dict[str, Any]]] = [
    (Adjustment, {}),
    (BackdoorCompensation, {}),
    (BackdoorCompensation, {"prior": "uniform"}),
    (BackdoorCompensation, {"strength": "auto", "attention": "random"}),
    (Standardisation, {}),
    (Standardisation, {"strength": "auto"}),
    (PriorAdjustment, {}),
    (PriorAdjustment, {"strength": 0.5}),
    (InversePropensityWeighting, {}),
    (InversePropensityWeighting, {"gamma": 1.0, "strata": "cluster"}),
    (InversePropensityWeighting, {"strata": "both"}),
]
ALL = pytest.mark.parametrize(("kind", "options"), FORMS)


def dictionary(count: int = N) -> ConfounderDictionary:
    counts = torch.randint(1, 50, (count, K))
    prior = counts.sum(1) / counts.sum()
    return ConfounderDictionary(torch.randn(count, K), prior, counts, {})


def make(
    kind: type[Adjustment], options: dict[str, Any], given: ConfounderDictionary
) -> Adjustment:
    return kind(given, num_classes=K, seed=0, **options)


def assert_equal(found: Adjustment, expected: Adjustment) -> None:
    """In what they hold, and in what they say of the same predictions."""
    assert found.facts == expected.facts
    tensors, others = dict(found.named_buffers()), dict(expected.named_buffers())
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    logits = 3 * torch.randn(20, K)
    assert torch.equal(found(logits), expected(logits))
    weights: list[Tensor | None] = [each.weights(logits) for each in (found, expected)]
    if weights[0] is None or weights[1] is None:
        assert weights == [None, None]
    else:
        assert torch.equal(weights[0], weights[1])


@ALL
def test_after_a_load_it_equals_a_new_one(kind: type[Adjustment], options: dict[str, Any]) -> None:
    first, last = dictionary(), dictionary()
    found = make(kind, options, first)
    found.load(last)
    assert_equal(found, make(kind, options, last))


@ALL
def test_what_it_has_loaded_is_part_of_its_state(
    kind: type[Adjustment], options: dict[str, Any]
) -> None:
    """A killed online fit starts again from the first dictionary, then loads its state."""
    first, last = dictionary(), dictionary()
    again = make(kind, options, first)
    again.load_state_dict(make(kind, options, last).state_dict())
    assert_equal(again, make(kind, options, last))


@ALL
def test_it_leaves_the_dictionaries_as_they_are(
    kind: type[Adjustment], options: dict[str, Any]
) -> None:
    first, last = dictionary(), dictionary()
    kept = replace(first, prototypes=first.prototypes.clone(), prior=first.prior.clone())
    make(kind, options, first).load(last)
    assert torch.equal(first.prototypes, kept.prototypes)
    assert torch.equal(first.prior, kept.prior)


@ALL
def test_a_dictionary_of_another_shape_is_refused(
    kind: type[Adjustment], options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 4\), but got \(1, 4\)"):
        make(kind, options, dictionary()).load(dictionary(1))
