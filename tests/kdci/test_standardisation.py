from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from src.kdci.dictionary import ConfounderDictionary
from src.kdci.standardisation import Standardisation
from src.objective.distillation import LogitDistanceObjective, StudentOutput

N, D, K = 5, 7, 4


def dictionary() -> ConfounderDictionary:
    prior = torch.rand(N).add(0.1)
    counts = torch.ones(N, K, dtype=torch.int64)
    return ConfounderDictionary(torch.randn(N, D), prior / prior.sum(), counts, {})


def make(given: ConfounderDictionary, **options: Any) -> Standardisation:
    return Standardisation(given, num_classes=K, **({"seed": 0} | options))


def reference(module: Standardisation, given: ConfounderDictionary, logits: Tensor) -> Tensor:
    """sum_i P(z_i) softmax(s + alpha W_g z_i), one stratum after another, in float64."""
    weight, result = module.project.double(), torch.zeros(len(logits), K, dtype=torch.double)
    for prototype, prior in zip(given.prototypes.double(), given.prior.double(), strict=True):
        shifted = logits.double() + module.facts["strength"] * (weight @ prototype)
        result += prior * torch.stack([row.exp() / row.exp().sum() for row in shifted])
    return result


def test_predictions_and_gradients_equal_the_formula() -> None:
    given = dictionary()
    module = make(given, strength=0.7)
    logits, target = torch.randn(6, K, requires_grad=True), torch.rand(6, K)
    for take in (lambda: module(logits).softmax(1), lambda: reference(module, given, logits)):
        found = take()
        (found * target).sum().backward()
    # Both passes have added up: each is half.
    total, weight = logits.grad, module.project.grad
    logits.grad = module.project.grad = None
    (module(logits).softmax(1) * target).sum().backward()
    assert torch.allclose(
        module(logits).softmax(1).double(), reference(module, given, logits), atol=1e-6
    )
    assert total is not None
    assert weight is not None
    assert logits.grad is not None
    assert module.project.grad is not None
    assert torch.allclose(2 * logits.grad, total, atol=1e-5)
    assert torch.allclose(2 * module.project.grad, weight, atol=1e-4)


def test_no_strength_changes_no_bit() -> None:
    logits = torch.randn(6, K)
    assert torch.equal(make(dictionary(), strength=0.0)(logits), logits)


def test_a_little_strength_changes_the_logits_a_little() -> None:
    """Log-probabilities instead would be far from a teacher's logits, which some methods meet."""
    logits = 10 + 3 * torch.randn(6, K)
    module = make(dictionary(), strength=1e-6)
    torch.testing.assert_close(module(logits), logits)
    output = StudentOutput(module(logits), logits)
    assert LogitDistanceObjective()(output, logits).item() == pytest.approx(0, abs=1e-5)


def test_one_stratum_is_a_shift() -> None:
    one = ConfounderDictionary(torch.randn(1, D), torch.ones(1), torch.ones(1, K).long(), {})
    module, logits = make(one), torch.randn(6, K)
    expected = F.softmax(logits + one.prototypes @ module.project.T, dim=1)
    assert torch.allclose(module(logits).softmax(1), expected, atol=1e-6)


def test_its_initialisation_leaves_the_dice_of_the_student_alone() -> None:
    given, before = dictionary(), torch.get_rng_state()
    first, again, other = (make(given, seed=seed).project for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_strength_every_parameter_has_a_gradient() -> None:
    """Of one that has none, DDP would complain at the second step."""
    module, logits = make(dictionary(), strength=0.0), torch.randn(5, K, requires_grad=True)
    module(logits).sum().backward()
    assert module.project.grad is not None
    assert not module.project.grad.any()
