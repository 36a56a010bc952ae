"""One step, whatever the objective asks for and whoever takes it."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from src.common.seeding import seed_all
from src.dataset.contract import ImageSpec
from src.dataset.loader import LabelledBatches
from src.kdci import additive
from src.objective.distillation import DistillationObjective, StudentOutput
from src.student.companion import CompanionStudent
from src.student.step import meet, plain_output, update
from src.substitution.batches import ReplayBatches
from src.substitution.module import predict
from src.teacher.frozen import FrozenTeacher
from tests import elsewhere
from tests.toys import SGD, Toy, convnet, filled_bank, job, kdci_student, labelled, student
from tests.waits import Waits

Maps = tuple[Tensor, ...]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"attention": "dot"},
    {"attention": "cosine", "projection": "identity"},
    {"renormalise": True},
    {"fusion": "linear", "attention": "random"},
]


class Mapped(nn.Module):
    """Remembers what it is given, and asks for maps."""

    reads_maps: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[StudentOutput, Tensor, Maps]] = []

    def forward(self, output: StudentOutput, teacher_logits: Tensor, teacher_maps: Maps) -> Tensor:
        self.given.append((output, teacher_logits, teacher_maps))
        assert output.maps is not None
        return torch.stack([each.square().mean() for each in output.maps]).sum()


def hooked(*networks: nn.Module) -> bool:
    return any(m._forward_hooks for network in networks for m in network.modules())


def test_maps_come_as_they_are_asked_for(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    network, images, objective = convnet(tiny_spec), torch.randn(3, 3, 8, 8), Mapped()
    output, loss = meet(images, tiny_teacher, partial(plain_output, network), objective)
    ((given, logits, maps),) = objective.given
    assert given is output
    assert output.maps is not None
    assert [each.shape for each in output.maps] == [(3, 4, 8, 8), (3, 8, 4, 4)]
    torch.testing.assert_close(network.head(output.maps[1].mean((2, 3))), output.logits)
    torch.testing.assert_close(tiny_teacher.network.head(maps[-1].mean((2, 3))), logits)
    assert not any(each.requires_grad for each in maps)
    loss.backward()  # type: ignore[no-untyped-call]
    assert network.stages[0].weight.grad is not None
    assert not hooked(network, tiny_teacher)


def test_only_the_student_s_part_of_a_step_has_gradients(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    network, images, asked = convnet(tiny_spec), torch.randn(3, 3, 8, 8), list[bool]()
    scale = torch.ones((), requires_grad=True)

    def draw() -> Tensor:
        asked.append(torch.is_grad_enabled())
        return scale * images

    def rows(_: Tensor) -> Tensor:
        asked.append(torch.is_grad_enabled())
        return torch.tensor([0, 2])

    def taught(images: Tensor, with_maps: bool) -> StudentOutput:
        asked.append(torch.is_grad_enabled())
        return plain_output(network, images, with_maps)

    _, loss = meet(draw, tiny_teacher, taught, DistillationObjective(2.0), rows)
    assert asked == [False, False, True]
    loss.backward()
    assert scale.grad is None


def test_every_optimiser_starts_a_step_without_gradients() -> None:
    weights = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizers = [torch.optim.SGD([weight], lr=0.1) for weight in weights]
    for _ in range(3):
        loss = torch.stack([weight.sum() for weight in weights]).sum()
        update(loss, optimizers, lambda loss: loss.backward())
    for weight in weights:
        torch.testing.assert_close(weight.detach(), torch.full((2,), 0.7))


def test_who_asks_for_nothing_pays_nothing(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a hook")

    monkeypatch.setattr(nn.Module, "register_forward_hook", refuse)
    network = convnet(tiny_spec)
    images, objective = torch.randn(3, 3, 8, 8), DistillationObjective(2.0)
    output, _ = meet(images, tiny_teacher, partial(plain_output, network), objective)
    assert output.maps is None
    assert tiny_teacher(images).maps is None


def test_what_the_maps_are_weighed_with_is_the_layer_that_is_shipped(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    module = kdci_student(tiny_spec, tiny_teacher, fusion="linear").eval()
    fuse = module.adjustment.fuse
    assert fuse is not None
    fuse.data.add_(torch.randn_like(fuse))
    output = module.student_output(torch.randn(3, 3, 8, 8), True)
    head = output.head
    assert head is not None
    torch.testing.assert_close(head, fuse @ module.network.head.weight)
    bias = fuse @ module.network.head.bias
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module.student_output(torch.randn(3, 3, 8, 8), True).head
    assert rounded is not None
    assert torch.equal(rounded, head)
    features = output.maps[-1].mean((2, 3)) if output.maps else None
    assert features is not None
    torch.testing.assert_close(output.plain_logits, features @ head.T + bias)


def test_the_maps_of_a_compensated_student_are_the_plain_ones(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    module = kdci_student(tiny_spec, tiny_teacher, strength=5.0).eval()
    images = torch.randn(3, 3, 8, 8)
    output = module.student_output(images, True)
    plain = plain_output(module.network, images, True)
    assert not torch.equal(output.logits, output.plain_logits)
    assert torch.equal(output.plain_logits, plain.logits)
    assert output.maps is not None
    assert plain.maps is not None
    assert all(map(torch.equal, output.maps, plain.maps))


def test_rows_are_drawn_of_images_logits_and_maps_alike(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    images, rows, objective = torch.randn(4, 3, 8, 8), torch.tensor([2, 2, 0]), Mapped()
    network = convnet(tiny_spec).eval()
    meet(images, tiny_teacher, partial(plain_output, network), objective, lambda _: rows)
    ((output, logits, maps),) = objective.given
    said = tiny_teacher(images, with_maps=True)
    assert said.maps is not None
    assert torch.equal(logits, said.logits[rows])
    assert all(torch.equal(mine, its[rows]) for mine, its in zip(maps, said.maps, strict=True))
    torch.testing.assert_close(output.logits, network(images[rows]))


@pytest.mark.parametrize("asks", [False, True])
def test_recorded_logits_have_no_maps_so_the_teacher_is_asked_again(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path, asks: bool
) -> None:
    bank = filled_bank(tiny_spec)
    logits = predict(tiny_teacher, [bank]).logits
    objective = Mapped() if asks else DistillationObjective(2.0)
    module = student(tiny_spec, tiny_teacher, objective=objective)
    asked: list[int] = []
    hook = tiny_teacher.register_forward_hook(lambda *_: asked.append(1))
    batches = ReplayBatches([bank], batch_size=8, steps=4, seed=0, logits=[logits])
    test, state = labelled(tiny_spec, 4), tmp_path / "state"
    job(tmp_path).fit("stage_b", module, epochs=1, state=state, batches=batches, test=test)
    hook.remove()
    assert len(asked) == (4 if asks else 0)
    if isinstance(objective, Mapped):
        for (_, fresh, maps), recorded in zip(
            objective.given, ReplayBatches([bank], 8, 4, 0, logits=[logits]), strict=True
        ):
            torch.testing.assert_close(fresh, recorded[1])
            assert len(maps) == 2


def test_alongside_stage_a_maps_come_too(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    objective = Mapped()
    companion = CompanionStudent(
        convnet(tiny_spec),
        objective,
        optimizer=SGD,
        scheduler=None,
        scheduler_steps=1,
        steps_per_round=2,
        batch_size=6,
    )
    companion.learn(Toy(teacher=tiny_teacher, spec=tiny_spec))
    assert [len(maps) for *_, maps in objective.given] == [2, 2]
    assert not hooked(companion, tiny_teacher)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_compensated_step_does_not_wait_for_its_device(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def as_on_a_gpu(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, bool]:
        return -2 * queries.T[:, :, None], -2 * keys.T[:, None], False

    monkeypatch.setattr(additive, "_factors", as_on_a_gpu)
    module = kdci_student(tiny_spec, tiny_teacher, **options)
    optimizer = SGD(module.parameters())
    batches = ReplayBatches([filled_bank(tiny_spec)], batch_size=8, steps=2, seed=0)

    def step(images: Tensor) -> None:
        output, loss = meet(images, tiny_teacher, module.student_output, module.objective)
        module.watched(output)
        update(loss, [optimizer], Tensor.backward)

    first, second = batches
    step(first)  # which makes the optimiser's state
    with Waits() as waits:
        step(second)
    assert waits.seen == []


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_on_another_device_are_those_of_the_cpu(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of replayed images and what the teacher says of them; order and logits are brought once."""
    monkeypatch.setattr(torch, "Generator", elsewhere.generator)
    found = []
    for device in (torch.device("cpu"), elsewhere.DEVICE):
        seed_all(0)
        module, bank = kdci_student(tiny_spec, tiny_teacher, **options), filled_bank(tiny_spec)
        with elsewhere.moving():
            for moved in (module, tiny_teacher, bank):
                moved.to(device)
        recording = predict(tiny_teacher, [bank])
        batches = ReplayBatches([bank], batch_size=8, steps=3, seed=0, logits=[recording.logits])
        optimizer, losses = SGD(module.parameter_groups()), []
        with elsewhere.watched() as seen:
            for batch in batches:
                output, loss = meet(batch, tiny_teacher, module.student_output, module.objective)
                watched = module.watched(output)
                update(loss, [optimizer], Tensor.backward)
                losses += [loss.detach(), *watched.values()]
        assert seen == (["to", "to"] if device == elsewhere.DEVICE else [])
        test = LabelledBatches(labelled(tiny_spec).split, tiny_spec, 5, device)
        with torch.no_grad():
            losses += [module.eval().student_output(images).plain_logits for images, _ in test]
        found.append(losses)
    assert {each.device for each in found[1]} == {elsewhere.DEVICE}
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(here, there.cpu(), rtol=1e-4, atol=1e-5)


def test_waits_are_seen() -> None:
    numbers = torch.arange(4.0)
    with Waits() as waits:
        float(numbers[0])
        numbers[numbers > 1]
        numbers.nonzero()
        bool((numbers > 1).all())
        numbers.repeat_interleave(torch.ones(4).long(), output_size=4)
        numbers.repeat_interleave(torch.ones(4).long())
    assert waits.seen[:4] == ["_local_scalar_dense", "index", "nonzero", "_local_scalar_dense"]
    assert waits.seen[4:] == ["repeat_interleave"]
