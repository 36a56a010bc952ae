import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.objective.attention_transfer import (
    AttentionTransferObjective,
    attention,
    attention_distance,
    require_alike,
)
from src.objective.distillation import DistillationObjective, StudentOutput, reads_maps
from tests.reference import attention_transfer as reference
from tests.reference.compare import assert_same_with_gradients

K = 4


def stages(*widths: int) -> list[Tensor]:
    """Maps of a batch of 3 at 3x2, then at 2x1 positions."""
    return [torch.randn(3, width, 3 - i, 2 - i) for i, width in enumerate(widths)]


def test_the_distance_equals_the_slow_equation_on_both_sides() -> None:
    assert_same_with_gradients(
        lambda *maps: attention_distance(maps[:2], maps[2:]),
        lambda *maps: reference.distance(maps[:2], maps[2:]),
        *stages(2, 4),
        *stages(5, 3),
    )


@pytest.mark.parametrize("weight", [0.0, 250.0])
def test_the_objective_is_the_published_one_times_the_number_of_classes(weight: float) -> None:
    teacher_logits, teacher_maps = torch.randn(3, K).double(), [m.double() for m in stages(5, 3)]

    def ours(logits: Tensor, *maps: Tensor) -> Tensor:
        output = StudentOutput(logits, logits, maps)
        loss: Tensor = AttentionTransferObjective(1.0, weight)(
            output, teacher_logits, teacher_maps
        )
        return loss

    def published(logits: Tensor, *maps: Tensor) -> Tensor:
        return K * reference.published_loss(logits, teacher_logits, maps, teacher_maps, weight)

    assert_same_with_gradients(ours, published, torch.randn(3, K), *stages(2, 4))


def test_rows_have_length_one_and_a_dead_image_is_zero_with_a_finite_gradient() -> None:
    maps = torch.randn(3, 2, 4, 4)
    maps[1] = 0
    maps.requires_grad_()
    rows = attention(maps)
    torch.testing.assert_close(rows.norm(dim=1), torch.tensor([1.0, 0.0, 1.0]))
    attention_distance([maps], [torch.randn(3, 5, 4, 4)]).backward()  # type: ignore[no-untyped-call]
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def test_widths_and_scales_do_not_matter() -> None:
    maps = torch.randn(3, 2, 4, 4)
    same = attention_distance([maps], [7 * torch.cat([maps, maps], dim=1)])
    torch.testing.assert_close(same, torch.zeros(()), rtol=0, atol=1e-12)


def test_without_weight_it_is_the_distillation_of_every_other_method() -> None:
    logits, teacher = torch.randn(3, K), torch.randn(3, K)
    maps = tuple(stages(2, 4))
    loss = AttentionTransferObjective(2.0, 0.0)(StudentOutput(logits, logits, maps), teacher, maps)
    expected = DistillationObjective(2.0)(StudentOutput(logits, logits), teacher)
    assert torch.equal(loss, expected)


def test_the_teacher_is_constant_and_maps_belong_to_the_plain_student() -> None:
    logits, raw, teacher = (torch.randn(3, K, requires_grad=True) for _ in range(3))
    mine, its = ([m.requires_grad_() for m in stages(2, 4)] for _ in range(2))
    objective = AttentionTransferObjective(1.0, 250.0)
    assert reads_maps(objective)
    loss = objective(StudentOutput(logits, raw, tuple(mine)), teacher, its)
    given = (logits, *mine, raw, teacher, *its)
    found = torch.autograd.grad(loss, given, allow_unused=True)
    assert [gradient is not None for gradient in found] == [True] * 3 + [False] * 4


def test_bfloat16_maps_give_a_float32_loss() -> None:
    mine, its = ([m.bfloat16() for m in stages(2, 4)] for _ in range(2))
    loss = attention_distance(mine, its)
    assert loss.dtype == torch.float32
    assert torch.equal(
        loss, attention_distance([m.float() for m in mine], [m.float() for m in its])
    )


@pytest.mark.parametrize(
    ("mine", "its", "told"),
    [
        ([(8, 8)], [(8, 8), (4, 4)], "8x8, 4x4 of the teacher and 8x8 of the student"),
        ([(8, 8)], [(4, 4)], "4x4 of the teacher and 8x8 of the student"),
        ([], [(4, 4)], "4x4 of the teacher and none of the student"),
        ([], [], "none of the teacher and none of the student"),
        ([(7,)], [(7,)], "7 of the teacher and 7 of the student"),  # tokens
        ([(8, 8), (7,)], [(8, 8), (7,)], "8x8, 7 of the teacher and 8x8, 7 of the student"),
    ],
)
def test_maps_that_cannot_be_compared_are_refused_in_one_line(
    mine: list[tuple[int, ...]], its: list[tuple[int, ...]], told: str
) -> None:
    maps = [[torch.zeros(2, 3, *size) for size in sizes] for sizes in (mine, its)]
    with pytest.raises(UserError, match=told) as refused:
        attention_distance(*maps)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=told):
        require_alike(*maps)
