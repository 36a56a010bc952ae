import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from src.objective.contrastive import ContrastiveHead, contrastive_loss, info_nce
from tests.reference import contrastive as reference
from tests.reference.compare import assert_same_with_gradients, value_and_gradients


def unit_rows(count: int, width: int = 6) -> Tensor:
    return F.normalize(torch.randn(count, width), dim=1)


@pytest.mark.parametrize("num_fresh", [3, 7])
def test_loss_equals_the_slow_equation(num_fresh: int) -> None:
    assert_same_with_gradients(
        lambda a, b: contrastive_loss(a, b, num_fresh, 0.2),
        lambda a, b: reference.contrastive(a, b, num_fresh, 0.2),
        unit_rows(7),
        unit_rows(7),
    )


def test_an_empty_bank_leaves_the_first_term_alone_and_finite() -> None:
    anchors, candidates = unit_rows(5), unit_rows(5)
    loss = contrastive_loss(anchors, candidates, num_fresh=5, temperature=0.1)
    assert loss.isfinite()
    torch.testing.assert_close(loss, info_nce(anchors, candidates, 0.1).mean())


def test_no_gradient_reaches_the_global_views() -> None:
    _, anchors, candidates = value_and_gradients(
        lambda a, b: contrastive_loss(a, b, 2, 0.2), unit_rows(5), unit_rows(5)
    )
    assert anchors.any()
    assert not candidates.any()


def test_indistinguishable_candidates_cost_the_log_of_their_number() -> None:
    errors = info_nce(unit_rows(6), unit_rows(1).expand(6, -1), 0.1)
    torch.testing.assert_close(errors, torch.full((6,), math.log(6)))


def test_each_anchor_must_find_its_own_row() -> None:
    rows = torch.eye(6)
    assert info_nce(rows, rows, 0.05).max() < 1e-6
    assert info_nce(rows, rows.roll(1, 0), 0.05).min() > 19


def test_it_is_one_directional() -> None:
    anchors, candidates = unit_rows(5), unit_rows(5)
    forward, backward = info_nce(anchors, candidates, 0.2), info_nce(candidates, anchors, 0.2)
    assert not torch.allclose(forward, backward)


def test_similarities_stay_in_float32_under_autocast() -> None:
    anchors, candidates = unit_rows(5), unit_rows(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = contrastive_loss(anchors, candidates, 3, 0.1)
        narrow = contrastive_loss(anchors.bfloat16(), candidates.bfloat16(), 3, 0.1)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(loss, contrastive_loss(anchors, candidates, 3, 0.1))


def test_head_projects_onto_the_unit_sphere_with_the_published_widths() -> None:
    head = ContrastiveHead(12)
    projected = head(torch.randn(5, 12))
    assert projected.shape == (5, 256)
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(5))
    assert sum(p.numel() for p in head.parameters()) == 12 * 12 + 12 + 12 * 256 + 256


def test_head_equals_its_two_layers_written_out() -> None:
    head = ContrastiveHead(4, projection_dim=3).double()
    first_weight, first_bias, second_weight, second_bias = head.parameters()
    features = torch.randn(5, 4, dtype=torch.float64)
    hidden = (features @ first_weight.t() + first_bias).clamp_min(0)
    rows = hidden @ second_weight.t() + second_bias
    expected = rows / rows.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head(features), expected)


def test_head_output_is_normalised_in_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        projected = ContrastiveHead(12)(torch.randn(5, 12))
    assert projected.dtype == torch.float32
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(5))
