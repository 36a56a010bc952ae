import pytest
import torch

from src.common.errors import UserError
from src.objective.distillation import (
    DistillationObjective,
    LogitDistanceObjective,
    StudentOutput,
    kl_divergence,
    kl_per_sample,
    logit_distance,
    logit_distance_per_sample,
)
from tests.reference import distillation as reference
from tests.reference.compare import assert_same_with_gradients


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kl_divergence_equals_the_slow_equation_on_both_sides(temperature: float) -> None:
    assert_same_with_gradients(
        lambda student, teacher: kl_divergence(student, teacher, temperature),
        lambda student, teacher: reference.kl_divergence(student, teacher, temperature),
        3 * torch.randn(4, 5),
        3 * torch.randn(4, 5),
    )


def test_kl_of_certainty_to_a_uniform_student_is_log_k() -> None:
    teacher = torch.tensor([[1000.0, 0.0, 0.0, 0.0]])
    loss = kl_divergence(torch.zeros(1, 4), teacher, temperature=1.0)
    torch.testing.assert_close(loss, torch.tensor(4.0).log())


def test_kl_is_averaged_over_the_batch_and_summed_over_classes() -> None:
    student, teacher = torch.randn(3, 6), torch.randn(3, 6)
    per_sample = kl_per_sample(student, teacher, 2.0)
    assert per_sample.shape == (3,)
    torch.testing.assert_close(kl_divergence(student, teacher, 2.0), per_sample.sum() / 3)
    repeated = kl_divergence(student.repeat(5, 1), teacher.repeat(5, 1), 2.0)
    torch.testing.assert_close(repeated, per_sample.mean())


def test_kl_ignores_a_shift_of_all_logits() -> None:
    student, teacher = torch.randn(3, 6), torch.randn(3, 6)
    shifted = kl_divergence(student + 7, teacher - 3, 2.0)
    torch.testing.assert_close(shifted, kl_divergence(student, teacher, 2.0))


def test_kl_and_its_gradient_stay_finite_where_probabilities_underflow() -> None:
    student = torch.tensor([[0.0, 500.0]], requires_grad=True)
    teacher = torch.tensor([[500.0, 0.0]], requires_grad=True)
    loss = kl_divergence(student, teacher, 1.0)
    gradients = torch.autograd.grad(loss, (student, teacher))
    assert loss.item() == pytest.approx(500)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_bfloat16_logits_give_a_float32_loss() -> None:
    student, teacher = torch.randn(4, 5).bfloat16(), torch.randn(4, 5).bfloat16()
    loss = kl_divergence(student, teacher, 4.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, kl_divergence(student.float(), teacher.float(), 4.0))


def test_objective_compares_the_compensated_logits_and_holds_the_teacher_constant() -> None:
    logits, raw, teacher = (torch.randn(4, 5, requires_grad=True) for _ in range(3))
    loss = DistillationObjective(3.0)(StudentOutput(logits, raw), teacher)
    torch.testing.assert_close(loss, kl_divergence(logits, teacher, 3.0))
    gradients = torch.autograd.grad(loss, (logits, raw, teacher), allow_unused=True)
    assert gradients[0] is not None
    assert gradients[1] is None
    assert gradients[2] is None


def test_gradient_descent_on_the_objective_reaches_the_teacher() -> None:
    teacher, logits = torch.randn(8, 5), torch.zeros(8, 5, requires_grad=True)
    objective = DistillationObjective(2.0)
    losses = []
    for _ in range(50):
        loss = objective(StudentOutput(logits, logits), teacher)
        losses.append(loss.item())
        logits = (logits - 4 * torch.autograd.grad(loss, logits)[0]).detach().requires_grad_()
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(UserError, match="`temperature` > 0"):
        DistillationObjective(temperature)


def test_logit_distance_equals_the_slow_equation_on_both_sides() -> None:
    assert_same_with_gradients(
        logit_distance, reference.logit_distance, torch.randn(4, 5), torch.randn(4, 5)
    )


def test_the_distance_compares_the_compensated_logits_and_holds_the_teacher_constant() -> None:
    logits, raw, teacher = (torch.randn(4, 5, requires_grad=True) for _ in range(3))
    loss = LogitDistanceObjective()(StudentOutput(logits, raw), teacher)
    torch.testing.assert_close(loss, logit_distance(logits, teacher))
    gradients = torch.autograd.grad(loss, (logits, raw, teacher), allow_unused=True)
    assert gradients[0] is not None
    assert gradients[1:] == (None, None)


def test_logit_distance_of_samples_has_the_distance_of_the_batch_for_a_mean() -> None:
    student, teacher = torch.randn(4, 5), torch.randn(4, 5)
    per_sample = logit_distance_per_sample(student, teacher)
    assert per_sample.shape == (4,)
    torch.testing.assert_close(per_sample.mean(), logit_distance(student, teacher))
