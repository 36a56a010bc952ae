import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from src.objective.adversarial import (
    decision_disagreement_loss,
    disagreement_loss,
    patch_discriminator_loss,
    patch_generator_loss,
    reversed_js_divergence,
)
from tests.reference import adversarial as reference
from tests.reference import distillation
from tests.reference.compare import assert_same_with_gradients, value_and_gradients

Loss = Callable[[Tensor, Tensor], Tensor]


def test_disagreement_equals_the_slow_equation_on_both_sides() -> None:
    assert_same_with_gradients(
        disagreement_loss,
        lambda student, teacher: -distillation.kl_divergence(student, teacher, 1.0),
        2 * torch.randn(4, 5),
        2 * torch.randn(4, 5),
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_decision_disagreement_equals_the_slow_equation_on_both_sides(temperature: float) -> None:
    student, teacher = 2 * torch.randn(12, 3), 2 * torch.randn(12, 3)
    student[0], teacher[0] = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([2.0, 0.0, 1.0])
    student[1], teacher[1] = torch.tensor([3.0, 1.0, 0.0]), torch.tensor([0.0, 2.0, 1.0])
    assert_same_with_gradients(
        lambda student, teacher: decision_disagreement_loss(student, teacher, temperature),
        lambda student, teacher: reference.decision_disagreement(student, teacher, temperature),
        student,
        teacher,
    )


def test_decision_disagreement_divides_by_the_batch_and_not_by_the_mask() -> None:
    student = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = decision_disagreement_loss(student, teacher)
    torch.testing.assert_close(loss, disagreement_loss(student[:1], teacher[:1]) / 2)


def test_decision_disagreement_stops_once_all_decisions_differ() -> None:
    student, teacher = torch.eye(4), torch.eye(4).roll(1, 1)
    value, *gradients = value_and_gradients(decision_disagreement_loss, student, teacher)
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("loss", [disagreement_loss, decision_disagreement_loss])
def test_detaching_the_teacher_changes_the_gradient_at_the_images(loss: Loss) -> None:
    images = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    to_teacher, to_student = torch.randn(2, 8, 5, dtype=torch.float64)
    teacher, student = images @ to_teacher, images @ (to_teacher + 0.1 * to_student)
    (two_sided,) = torch.autograd.grad(loss(student, teacher), images, retain_graph=True)
    (one_sided,) = torch.autograd.grad(loss(student, teacher.detach()), images)
    assert (two_sided - one_sided).norm() > 0.1 * one_sided.norm() > 0


def test_reversed_js_equals_the_slow_equation_on_both_sides() -> None:
    # Logits this far apart put classes on either side of the floor.
    assert_same_with_gradients(
        reversed_js_divergence, reference.reversed_js, 8 * torch.randn(4, 5), 8 * torch.randn(4, 5)
    )


def test_reversed_js_of_two_different_one_hots() -> None:
    certain = 1000 * torch.eye(10)
    js = reversed_js_divergence(certain[:1], certain[1:2])
    assert js.item() == pytest.approx(1.6145, abs=5e-5)


def test_reversed_js_of_equal_predictions_is_zero_and_it_is_symmetric() -> None:
    student, teacher = torch.randn(4, 10), torch.randn(4, 10)
    assert reversed_js_divergence(student, student).item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(
        reversed_js_divergence(student, teacher), reversed_js_divergence(teacher, student)
    )


def test_patch_losses_equal_the_slow_equations() -> None:
    fake, real = torch.randn(3, 1, 2, 2), torch.randn(2, 1, 2, 2)
    assert_same_with_gradients(patch_discriminator_loss, reference.patch_discriminator, fake, real)
    assert_same_with_gradients(patch_generator_loss, reference.patch_generator, fake)


def test_patch_losses_at_chance_are_64_ln_2() -> None:
    logits = torch.zeros(16, 1, 8, 8)
    expected = torch.tensor(64 * math.log(2))
    torch.testing.assert_close(patch_generator_loss(logits), expected)
    torch.testing.assert_close(patch_discriminator_loss(logits, logits), expected)
    assert expected.item() == pytest.approx(44.36, abs=5e-3)


def test_patch_losses_stay_finite_at_large_logits() -> None:
    fake, real = torch.full((2, 1, 2, 2), 300.0), torch.full((2, 1, 2, 2), -300.0)
    assert patch_discriminator_loss(fake, real).item() == pytest.approx(4 * 300)
    assert patch_generator_loss(real).item() == pytest.approx(4 * 300)


@pytest.mark.parametrize(
    "loss",
    [
        disagreement_loss,
        decision_disagreement_loss,
        reversed_js_divergence,
        lambda student, teacher: patch_discriminator_loss(student, teacher),
        lambda student, teacher: patch_generator_loss(teacher),
    ],
)
def test_bfloat16_inputs_give_float32_losses_as_if_widened_first(loss: Loss) -> None:
    student, teacher = torch.randn(4, 5).bfloat16(), torch.randn(4, 5).bfloat16()
    assert loss(student, teacher).dtype == torch.float32
    assert torch.equal(loss(student, teacher), loss(student.float(), teacher.float()))


def test_underflowed_classes_give_finite_values_and_gradients() -> None:
    student = 500 * torch.eye(3, dtype=torch.float64)
    teacher = student.roll(1, 1)
    for loss in (disagreement_loss, decision_disagreement_loss, reversed_js_divergence):
        for result in value_and_gradients(loss, student, teacher):
            assert result.isfinite().all()
