from functools import partial

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.network.convnet import ConvNet
from src.objective.class_activation import (
    ClassActivationObjective,
    class_maps,
    class_slopes,
    gradient_map,
)
from src.objective.distillation import (
    DistillationObjective,
    StudentOutput,
    reads_maps,
    reads_slopes,
)
from src.student.step import meet, plain_output
from src.teacher.frozen import FrozenTeacher
from tests.reference.class_activation import Network, published_loss
from tests.reference.compare import assert_same_with_gradients

B, K, TAU = 3, 4, 30.0


def network(channels: int) -> Network:
    return Network(torch.randn(channels).double(), torch.randn(K, channels).double())


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_loss_is_the_published_one_with_all_gradients(weight: float) -> None:
    teacher, its_first = network(5), torch.randn(B, 5, 4, 6).double()
    its = (its_first, teacher.second(its_first))
    wanted = teacher.logits(its[1])
    objective = ClassActivationObjective(TAU, weight, teacher.head)

    def ours(first: Tensor, scales: Tensor, head: Tensor) -> Tensor:
        student = Network(scales, head)
        maps = (first, student.second(first))
        logits = student.logits(maps[1])
        slopes = teacher.slopes(its_first, wanted.argmax(1).tolist())
        output = StudentOutput(logits, logits, maps, head)
        loss: Tensor = objective(output, wanted, its, slopes)
        return loss

    def published(first: Tensor, scales: Tensor, head: Tensor) -> Tensor:
        return published_loss(Network(scales, head), first, teacher, its_first, TAU, weight)

    assert_same_with_gradients(
        ours, published, torch.randn(B, 2, 4, 6), torch.randn(2), torch.randn(K, 2)
    )


def test_slopes_are_derivatives_and_constants() -> None:
    net, first = network(3), torch.randn(B, 3, 4, 6).double().requires_grad_()
    second = net.second(first)
    found = class_slopes(net.logits(second), (first, second), torch.tensor([2, 0, 3]))
    torch.testing.assert_close(found, net.slopes(first.detach(), [2, 0, 3]))
    assert not any(each.requires_grad for each in found)
    net.logits(second).sum().backward()  # type: ignore[no-untyped-call]


def test_the_teacher_explains_what_it_says_and_stays_as_it_is(
    tiny_teacher: FrozenTeacher,
) -> None:
    images, before = torch.randn(B, 3, 8, 8), tiny_teacher.fingerprint()
    with torch.no_grad():
        said, plain = tiny_teacher.explain(images), tiny_teacher(images, with_maps=True)
    assert said.maps is not None
    assert said.slopes is not None
    assert torch.equal(said.logits, plain.logits)
    assert all(map(torch.equal, said.maps, plain.maps))
    # The last stage is averaged and weighted, so that its slopes are those weights.
    rows = tiny_teacher.network.head.weight[said.logits.argmax(1)]
    torch.testing.assert_close(said.slopes[-1], rows / said.maps[-1][0, 0].numel())
    tensors = (said.logits, said.features, *said.maps, *said.slopes, images)
    assert not any(each.requires_grad for each in tensors)
    assert tiny_teacher.fingerprint() == before
    assert all(p.grad is None for p in tiny_teacher.parameters())


def test_a_student_that_is_the_teacher_has_no_loss(tiny_teacher: FrozenTeacher) -> None:
    student = ConvNet([4, 8], num_classes=4).eval()
    student.load_state_dict(tiny_teacher.network.state_dict())
    objective = ClassActivationObjective(TAU, 1.0, tiny_teacher.network.head.weight)
    images = torch.randn(B, 3, 8, 8)
    _, loss = meet(images, tiny_teacher, partial(plain_output, student), objective)
    torch.testing.assert_close(loss, torch.zeros(()), rtol=0, atol=1e-6)


def test_rows_are_drawn_of_slopes_as_of_maps(tiny_teacher: FrozenTeacher) -> None:
    student, images = ConvNet([4, 8], num_classes=4).eval(), torch.randn(4, 3, 8, 8)
    objective = ClassActivationObjective(TAU, 1.0, tiny_teacher.network.head.weight)
    meets, rows = partial(plain_output, student), torch.tensor([3, 3, 0])
    _, drawn = meet(images, tiny_teacher, meets, objective, lambda _: rows)
    _, whole = meet(images[rows], tiny_teacher, meets, objective)
    torch.testing.assert_close(drawn, whole)


def test_the_regions_do_not_teach_the_classifier_and_are_the_plain_student_s(
    tiny_teacher: FrozenTeacher,
) -> None:
    student, images = ConvNet([4, 8], num_classes=4), torch.randn(B, 3, 8, 8)
    objective = ClassActivationObjective(TAU, 1.0, tiny_teacher.network.head.weight)
    plain = plain_output(student, images, True)
    compensated = plain._replace(logits=torch.randn(B, 4))  # without a way to the network
    said = tiny_teacher.explain(images)
    objective(compensated, said.logits, said.maps, said.slopes).backward()
    assert student.head.weight.grad is None
    assert student.stages[0].weight.grad.abs().sum() > 0  # type: ignore[union-attr]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_nothing_of_what_the_teacher_says_or_sees_is_taught(weight: float) -> None:
    own, maps = torch.randn(K, 2).double(), torch.randn(B, 2, 4, 6).double().requires_grad_()
    logits = maps.mean((2, 3)) @ own.T
    head, wanted = (torch.randn(n, K).double().requires_grad_() for n in (K, B))
    its, slopes = torch.randn(B, K, 4, 6).double(), torch.randn(B, K).double()
    of_teacher = (wanted, its.requires_grad_(), slopes.requires_grad_(), head)
    objective = ClassActivationObjective(TAU, weight, head)
    loss = objective(StudentOutput(logits, logits, (maps,), own), wanted, (its,), (slopes,))
    loss.backward()
    assert maps.grad is not None
    assert maps.grad.any()
    assert all(each.grad is None for each in of_teacher)


def test_without_weight_maps_are_not_read_and_the_rest_is_a_kth_of_the_usual_loss() -> None:
    objective = ClassActivationObjective(TAU, 0.0, torch.randn(K, 2))
    assert not reads_maps(objective)
    assert not reads_slopes(objective)
    logits, teacher = torch.randn(B, K), torch.randn(B, K)
    output = StudentOutput(logits, logits)
    usual = DistillationObjective(TAU)(output, teacher)
    torch.testing.assert_close(K * objective(output, teacher), usual)
    assert "teacher_head" not in objective.state_dict()


def test_bfloat16_maps_give_float32_maps_also_under_autocast() -> None:
    maps, head = torch.randn(B, 2, 4, 4).bfloat16(), torch.randn(K, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(class_maps(maps, head), class_maps(maps.float(), head))
        found = gradient_map(maps, head[:B])
    assert found.dtype == torch.float32


def test_slopes_are_not_narrowed_by_autocast(
    tiny_teacher: FrozenTeacher, backward_passes: list[bool]
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        tiny_teacher.explain(torch.randn(B, 3, 8, 8))
    assert backward_passes == [False]


def test_what_cannot_be_compared_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"reads the 2 channels.*reads 3 features.*weight=0"):
        class_maps(torch.randn(B, 2, 4, 4), torch.randn(K, 3))
    objective = ClassActivationObjective(TAU, 1.0, torch.randn(K, 2))
    logits, maps = torch.randn(B, K), (torch.randn(B, 2, 4, 4),)
    with pytest.raises(UserError, match="equal number and sizes"):
        objective(StudentOutput(logits, logits, maps, torch.randn(K, 2)), logits, (), ())
