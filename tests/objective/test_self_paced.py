import math
from typing import Any

import pytest
import torch
from torch import Tensor

from src.objective.distillation import StudentOutput, logit_distance
from src.objective.self_paced import SelfPacedObjective, self_paced_weight
from tests.reference.distillation import kl
from tests.reference.sums import total


def make(**changes: Any) -> SelfPacedObjective:
    options = {"distance": "l1", "temperature": 3.0, "initial_age": 0.5, "growth": 0.25}
    return SelfPacedObjective(**(options | changes))


def met(objective: SelfPacedObjective, student: Tensor, teacher: Tensor) -> Tensor:
    loss: Tensor = objective(StudentOutput(student, torch.zeros_like(student)), teacher)
    return loss


def weight(loss: float, age: float) -> float:
    return (1 + math.exp(-age)) / (1 + math.exp(loss - age))


def distances(distance: str, student: Tensor, teacher: Tensor) -> list[Tensor]:
    """Losses of the rows, by their equations."""
    rows = list(zip(student, teacher, strict=True))
    if distance == "kl":
        return [9.0 * kl(s, t, 3.0) for s, t in rows]
    return [total(abs(gap) for gap in s - t) / len(s) for s, t in rows]


@pytest.mark.parametrize("distance", ["l1", "kl"])
@pytest.mark.parametrize("paces", ["batch", "image"])
def test_loss_and_gradient_equal_the_slow_equation(distance: Any, paces: Any) -> None:
    student = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    teacher = 4 * torch.randn(4, 3, dtype=torch.float64)
    objective = make(distance=distance, paces=paces)
    for step in range(3):
        losses = distances(distance, student, teacher)
        mean = total(losses) / 4
        seen = [mean] * 4 if paces == "batch" else losses
        weights = [weight(float(loss.detach()), 0.5 + 0.25 * step) for loss in seen]
        expected = total(w * loss for w, loss in zip(weights, losses, strict=True)) / 4
        (slope,) = torch.autograd.grad(expected, student)
        loss = met(objective, student, teacher)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, student)[0], slope)


def test_weight_is_one_without_a_loss_and_about_half_at_lambda() -> None:
    age = torch.tensor(6.0)
    found = self_paced_weight(torch.tensor([0.0, 6.0, 60.0]), age)
    assert found.tolist() == pytest.approx([1, 0.5, 0], abs=2e-3)


def test_far_apart_is_finite() -> None:
    student = torch.full((2, 3), 1e4, requires_grad=True)
    loss = met(make(), student, -student.detach())
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_old_students_see_the_plain_distance() -> None:
    student, teacher = torch.randn(2, 4, 3)
    old = make(initial_age=40.0)
    torch.testing.assert_close(met(old, student, teacher), logit_distance(student, teacher))


def test_only_steps_of_training_count_and_they_are_kept() -> None:
    objective = make()
    student, teacher = torch.randn(2, 4, 3)
    first = met(objective, student, teacher)
    objective.eval()
    second = met(objective, student, teacher)
    assert second > first
    assert objective.steps == 1
    again = make()
    again.load_state_dict(objective.state_dict())
    torch.testing.assert_close(met(again, student, teacher), second)


def test_the_teacher_is_held_constant() -> None:
    student, teacher = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    met(make(), student, teacher).backward()
    assert teacher.grad is None


@pytest.mark.parametrize(("paces", "seen"), [("batch", 1.25), ("image", None)])
def test_a_batch_has_the_weight_of_the_mean_loss_of_all_ranks(
    monkeypatch: pytest.MonkeyPatch, paces: Any, seen: float | None
) -> None:
    reduced: list[Tensor] = []

    def summed(value: Tensor) -> Tensor:
        """Of this rank, and of others whose mean losses are 0.5, 1.5 and 2."""
        reduced.append(value)
        return value + 4

    monkeypatch.setattr("src.objective.self_paced.sum_over_ranks", summed)
    monkeypatch.setattr("src.objective.self_paced.world_size", lambda: 4)
    gaps = torch.tensor([0.5, 1.5], dtype=torch.float64)  # of a mean of 1: that of all is 1.25
    student = (gaps[:, None] * torch.ones(2, 3)).requires_grad_()
    loss = met(make(paces=paces), student, torch.zeros(2, 3))
    weights = [weight(float(gap) if seen is None else seen, 0.5) for gap in gaps]
    expected = sum(w * float(gap) for w, gap in zip(weights, gaps, strict=True)) / 2
    assert loss.item() == pytest.approx(expected)
    (slope,) = torch.autograd.grad(loss, student)
    rows = torch.tensor(weights, dtype=torch.float64)[:, None] / 6
    torch.testing.assert_close(slope, rows.expand(2, 3))  # of this rank's own losses alone
    assert [value.item() for value in reduced] == ([] if seen is None else [pytest.approx(1.0)])
    assert not any(value.requires_grad for value in reduced)
