import math

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.objective.distillation import StudentOutput
from src.objective.noise import NoiseMatrix, NoisyDistillationObjective, class_weights
from tests.reference import noise as reference
from tests.reference.compare import assert_same_with_gradients, value_and_gradients


def filled(noise: NoiseMatrix, parameter: Tensor) -> NoiseMatrix:
    """Put ``parameter`` in place, still attached to its graph."""
    del noise.off_diagonal
    noise.__dict__["off_diagonal"] = parameter
    return noise


@pytest.mark.parametrize("num_classes", [2, 3, 6])
def test_matrix_equals_the_slow_layout(num_classes: int) -> None:
    mixing = torch.randn(num_classes, num_classes, dtype=torch.float64)
    assert_same_with_gradients(
        lambda n: (mixing * filled(NoiseMatrix(num_classes, 0.7), n).matrix()).sum(),
        lambda n: (mixing * reference.noise_matrix(n, 0.7)).sum(),
        torch.randn(num_classes, num_classes - 1),
    )


def test_rows_sum_to_one_and_the_diagonal_stays_fixed() -> None:
    noise = NoiseMatrix(10, 0.9523)
    torch.nn.init.normal_(noise.off_diagonal, std=3)
    matrix = noise.matrix()
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(10))
    torch.testing.assert_close(matrix.diagonal(), torch.full((10,), 0.9523))


@pytest.mark.parametrize(
    ("num_classes", "diagonal", "rest"), [(10, 0.9523, 0.0053), (100, 0.7774, 0.00225)]
)
def test_published_start(num_classes: int, diagonal: float, rest: float) -> None:
    noise = NoiseMatrix(num_classes, diagonal)
    assert noise.off_diagonal.shape == (num_classes, num_classes - 1)
    assert noise.matrix()[0, 1].item() == pytest.approx(rest, rel=2e-3)
    uniform = noise.negative_log_likelihood(torch.zeros(4, num_classes), torch.arange(4))
    torch.testing.assert_close(uniform, torch.full((4,), math.log(num_classes)))


@pytest.mark.parametrize(("diagonal", "floor"), [(0.9523, 0.0489), (0.7774, 0.2518)])
def test_a_certain_student_reaches_the_floor(diagonal: float, floor: float) -> None:
    certain = 1000 * torch.eye(5)
    nll = NoiseMatrix(5, diagonal).negative_log_likelihood(certain, torch.arange(5))
    torch.testing.assert_close(nll, torch.full((5,), -math.log(diagonal)))
    assert nll[0].item() == pytest.approx(floor, abs=1e-4)


def test_likelihood_stays_finite_where_the_matrix_underflows() -> None:
    noise = NoiseMatrix(3, 0.9)
    with torch.no_grad():
        noise.off_diagonal[0] = torch.tensor([500.0, -500.0])  # Q[0, 2] underflows to 0
    logits = torch.tensor([[1000.0, 0.0, 0.0]], requires_grad=True)
    nll = noise.negative_log_likelihood(logits, torch.tensor([2])).sum()
    gradients = torch.autograd.grad(nll, (logits, noise.off_diagonal))
    assert nll.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_only_what_underflows_is_lifted_to_the_least_normal_number() -> None:
    noise = NoiseMatrix(3, 0.9)
    with torch.no_grad():
        noise.off_diagonal[0] = torch.tensor([500.0, -500.0])  # Q[0, 2] underflows to 0
    logits = torch.tensor([[80.0, 0.0, 0.0], [1000.0, 0.0, 0.0]])
    small, none = noise.negative_log_likelihood(logits, torch.tensor([2, 2])).tolist()
    # Of exp(-80) each, class 2 is seen as itself, and class 1 as it in half of its tenth.
    assert small == pytest.approx(80 - math.log(0.9 + 0.05), abs=1e-4)
    assert none == pytest.approx(126 * math.log(2))


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 1.5, 0.7, 1.3]])
@pytest.mark.parametrize("compensate_noise", [False, True])
def test_objective_equals_the_slow_equation(
    weights: list[float] | None, compensate_noise: bool
) -> None:
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    objective = NoisyDistillationObjective(5, 0.8, 2.0, tensor, compensate_noise)

    def actual(logits: Tensor, raw: Tensor, teacher: Tensor, parameter: Tensor) -> Tensor:
        filled(objective.noise, parameter)
        loss: Tensor = objective(StudentOutput(logits, raw), teacher)
        return loss

    def expected(logits: Tensor, raw: Tensor, teacher: Tensor, parameter: Tensor) -> Tensor:
        noisy = logits if compensate_noise else raw
        return reference.noisy_distillation(logits, noisy, teacher, parameter, 0.8, 2.0, weights)

    rows = [2 * torch.randn(6, 5) for _ in range(3)]
    assert_same_with_gradients(actual, expected, *rows, torch.randn(5, 4))


def test_second_release_is_sixteen_times_the_batchmean_kl_plus_the_nll() -> None:
    logits, teacher = torch.randn(6, 10), torch.randn(6, 10)
    objective = NoisyDistillationObjective(10, 0.95)
    kl = torch.nn.functional.kl_div(
        (logits / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="batchmean"
    )
    nll = objective.noise.negative_log_likelihood(logits, teacher.argmax(1)).mean()
    loss = objective(StudentOutput(logits, logits), teacher)
    torch.testing.assert_close(loss, 16 * kl + nll)


def test_gradient_reaches_student_and_matrix_but_not_the_teacher() -> None:
    def loss(logits: Tensor, raw: Tensor, teacher: Tensor, parameter: Tensor) -> Tensor:
        objective = NoisyDistillationObjective(5, 0.8)
        filled(objective.noise, parameter)
        value: Tensor = objective(StudentOutput(logits, raw), teacher)
        return value

    rows = [torch.randn(6, 5) for _ in range(3)]
    _, logits, raw, teacher, parameter = value_and_gradients(loss, *rows, torch.zeros(5, 4))
    assert logits.any()
    assert raw.any()
    assert parameter.any()
    assert not teacher.any()


def test_class_weights_equal_the_slow_equation_and_average_one() -> None:
    counts = [0, 3, 50_000, 12, 1]
    weights = class_weights(torch.tensor(counts))
    torch.testing.assert_close(weights, torch.tensor(reference.class_weights(counts)))
    torch.testing.assert_close(weights.mean(), torch.tensor(1.0))


def test_equal_counts_weigh_as_no_weights() -> None:
    logits, teacher = torch.randn(6, 5), torch.randn(6, 5)
    even = class_weights(torch.full((5,), 40))
    losses = [
        NoisyDistillationObjective(5, 0.8, class_weights=weights)(
            StudentOutput(logits, logits), teacher
        )
        for weights in (None, even)
    ]
    torch.testing.assert_close(losses[0], losses[1])


def test_bfloat16_logits_give_a_float32_loss_even_under_autocast() -> None:
    logits, teacher = torch.randn(6, 5).bfloat16(), torch.randn(6, 5).bfloat16()
    objective = NoisyDistillationObjective(5, 0.8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(StudentOutput(logits, logits), teacher)
    wide = objective(StudentOutput(logits.float(), logits.float()), teacher.float())
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, wide)


def test_state_carries_matrix_and_weights() -> None:
    source = NoisyDistillationObjective(5, 0.8, class_weights=torch.arange(5.0))
    torch.nn.init.normal_(source.noise.off_diagonal)
    target = NoisyDistillationObjective(5, 0.8, class_weights=torch.ones(5))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.noise.matrix(), source.noise.matrix())
    torch.testing.assert_close(target.class_weights, source.class_weights, rtol=0, atol=0)


@pytest.mark.parametrize("diagonal", [0.0, 1.0, 95.23])
def test_a_diagonal_that_is_no_fraction_is_refused(diagonal: float) -> None:
    with pytest.raises(UserError, match=r"`diagonal` in \(0, 1\)"):
        NoiseMatrix(10, diagonal)


def test_one_class_and_misshaped_weights_are_refused() -> None:
    with pytest.raises(UserError, match="`num_classes` >= 2"):
        NoiseMatrix(1, 0.9)
    with pytest.raises(UserError, match=r"shape \(5,\)"):
        NoisyDistillationObjective(5, 0.9, class_weights=torch.ones(4))
    with pytest.raises(UserError, match="`temperature` > 0"):
        NoisyDistillationObjective(5, 0.9, temperature=0.0)
