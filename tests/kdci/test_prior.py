import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from src.kdci.dictionary import ConfounderDictionary
from src.kdci.prior import PriorAdjustment
from src.kdci.unevenness import as_in_batches, class_shares, divergence, strength_of


def dictionary(*counts: int) -> ConfounderDictionary:
    table = torch.tensor([counts])
    return ConfounderDictionary(torch.zeros(1, len(counts)), torch.ones(1), table, {})


def make(*counts: int, **options: Any) -> PriorAdjustment:
    return PriorAdjustment(dictionary(*counts), num_classes=len(counts), seed=0, **options)


def test_the_prediction_is_multiplied_by_the_prior() -> None:
    logits = torch.randn(5, 3, dtype=torch.double)
    adjusted = F.softmax(make(59, 29, 9, strength=1.0)(logits), dim=1)
    # Counts plus one each: 60, 30, 10 of 100.
    expected = F.softmax(logits, dim=1) * torch.tensor([0.6, 0.3, 0.1])
    assert torch.allclose(adjusted, expected / expected.sum(1, keepdim=True), atol=1e-6)


def test_nothing_is_added_on_average() -> None:
    # A softmax does not see it, but a distance of logits does.
    logits = torch.randn(5, 3, dtype=torch.double)
    adjusted = make(59, 29, 9, strength=0.7)(logits)
    assert (adjusted - logits).abs().max() > 0.5
    torch.testing.assert_close(adjusted.mean(1), logits.mean(1), rtol=0, atol=1e-6)


def test_what_is_shipped_is_the_student_alone() -> None:
    logits = torch.randn(5, 3)
    assert torch.equal(make(59, 29, 9).plain(logits), logits)


def test_no_strength_changes_no_bit() -> None:
    logits = torch.randn(50, 3)
    assert torch.equal(make(1, 5, 90, strength=0.0)(logits), logits)


def test_a_class_without_samples_stays_finite() -> None:
    assert make(90, 10, 0, strength=1.0)(torch.zeros(1, 3)).isfinite().all()


def test_unevenness_is_the_divergence_from_even_shares() -> None:
    assert divergence(dictionary(7, 7, 7)) == pytest.approx(0, abs=1e-12)
    assert divergence(dictionary(9, 0)) == pytest.approx(math.log(2))
    shares = torch.tensor([0.5, 0.25, 0.25])
    expected = float((shares * (shares * 3).log()).sum())
    assert divergence(dictionary(50, 25, 25)) == pytest.approx(expected)
    assert class_shares(dictionary(50, 25, 25)).tolist() == pytest.approx(shares.tolist())


def test_an_automatic_strength_follows_the_unevenness() -> None:
    assert strength_of("auto", dictionary(10, 10, 10)) == pytest.approx(0, abs=1e-12)
    assert strength_of("auto", dictionary(10, 0)) == pytest.approx(
        math.log(2) / (math.log(2) + 0.05)
    )
    assert strength_of(0.25, dictionary(10, 0)) == 0.25
    module = make(10, 10, 10)
    assert module.facts["strength"] == pytest.approx(0, abs=1e-12)
    module.load(dictionary(30, 0, 0))
    assert module.facts["strength"] > 0.9


def test_the_strength_of_a_later_dictionary_is_part_of_the_state() -> None:
    """A killed online fit starts again from the first dictionary, then loads its state."""
    before, after = make(10, 10, 10), make(10, 10, 10)
    before.load(dictionary(30, 0, 0))
    after.load_state_dict(before.state_dict())
    assert after.facts == before.facts
    logits = torch.randn(5, 3)
    assert torch.equal(after(logits), before(logits))


def test_banks_of_any_size_are_equal_parts_of_a_batch() -> None:
    sizes = torch.tensor([[0, 90, 0], [2, 4, 4]])
    banks = [torch.eye(3)[torch.arange(3).repeat_interleave(each)] for each in sizes]
    # Two clusters, of which one holds a third of each class.
    counts = torch.stack([sizes.sum(0) - 1, torch.ones(3, dtype=torch.int64)])
    pooled = ConfounderDictionary(torch.zeros(2, 3), torch.full((2,), 0.5), counts, {})
    found = as_in_batches(pooled, banks)
    assert class_shares(found).tolist() == pytest.approx([0.1, 0.7, 0.2])
    assert float(found.counts.sum()) == pytest.approx(100)
    of_class = counts.double() / counts.sum(0)
    torch.testing.assert_close(found.counts / found.counts.sum(0), of_class)
    assert as_in_batches(pooled, [torch.cat(banks)]) is pooled


def test_a_class_that_no_bank_has_stays_without_samples() -> None:
    banks = [torch.eye(3)[[0] * 3 + [1]], torch.eye(3)[[0, 1]]]
    found = as_in_batches(dictionary(4, 2, 0), banks)
    assert class_shares(found).tolist() == pytest.approx([0.625, 0.375, 0])
