import math

import pytest
import torch

from src.common.divergence import divergence_from_uniform
from src.inside.shares import class_shares, share_of, share_per_class


def test_shares_count_every_class_and_those_without_images() -> None:
    assert class_shares(torch.tensor([2, 0, 2, 2]), 4) == [0.25, 0.0, 0.75, 0.0]


@pytest.mark.parametrize(
    ("shares", "nats"),
    [
        ([0.25] * 4, 0.0),
        ([0.0, 1.0, 0.0, 0.0], math.log(4)),
        ([0.5, 0.5, 0.0, 0.0], math.log(2)),
        ([0.75, 0.25], 0.75 * math.log(1.5) + 0.25 * math.log(0.5)),
    ],
)
def test_divergence_from_uniform_in_nats(shares: list[float], nats: float) -> None:
    assert divergence_from_uniform(shares) == pytest.approx(nats)


def test_a_share_of_nothing_is_none() -> None:
    hits, labels = torch.tensor([True, False, True, True]), torch.tensor([0, 0, 2, 2])
    assert share_of(hits) == 0.75
    assert share_per_class(hits, labels, 3) == [0.5, None, 1.0]
    assert share_of(hits[:0]) is None
