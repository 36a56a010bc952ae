import csv
import inspect
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.common.augment import Augmentation
from src.dataset.contract import ImageSpec
from src.network.convnet import ConvNet
from src.objective.distillation import StudentOutput, kl_divergence
from src.objective.noise import NoisyDistillationObjective
from src.student.companion import CompanionStudent
from src.student.module import StudentModule
from src.substitution.batches import ReplayBatches
from src.substitution.image_bank import ImageBank
from src.substitution.module import predict
from src.teacher.evaluate import accuracy
from src.teacher.frozen import FrozenTeacher
from tests.toys import (
    SGD,
    convnet,
    dictionary,
    filled_bank,
    job,
    kdci_student,
    labelled,
    student,
)

EXPONENTIAL: Any = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
BAD_PLACE = "distillation' is not finite at student step"


@pytest.fixture
def bank(tiny_spec: ImageSpec) -> ImageBank:
    return filled_bank(tiny_spec, augmentation=Augmentation(1, 0.5))


def replay(bank: ImageBank) -> ReplayBatches:
    return ReplayBatches([bank], batch_size=8, steps=4, seed=0)


def fit(
    module: StudentModule,
    bank: ImageBank,
    spec: ImageSpec,
    folder: Path,
    epochs: int = 3,
    precision: str = "32-true",
) -> StudentModule:
    job(folder, precision).fit(
        "stage_b",
        module,
        epochs=epochs,
        state=folder / "state",
        batches=replay(bank),
        test=labelled(spec, 20),
    )
    return module


def by_hand(
    network: ConvNet, teacher: FrozenTeacher, bank: ImageBank, epochs: int = 3
) -> list[float]:
    """Vanilla distillation as a plain loop; returns the mean loss of every epoch."""
    optimizer = SGD(network.parameters())
    schedule = EXPONENTIAL(optimizer)
    network.train()
    batches, means = replay(bank), []
    for _ in range(epochs):
        losses = []
        for images in batches:
            with torch.no_grad():
                target = teacher(images).logits
            loss = kl_divergence(network(images), target, temperature=2.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        means.append(sum(losses) / len(losses))
    return means


def logged(folder: Path, key: str) -> list[float]:
    with (folder / "metrics" / "stage_b" / "metrics.csv").open() as file:
        return [float(row[key]) for row in csv.DictReader(file) if row[key]]


def test_the_vanilla_student_is_a_plain_loop_bit_for_bit(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, bank: ImageBank, tmp_path: Path
) -> None:
    module = student(tiny_spec, tiny_teacher, scheduler=EXPONENTIAL)
    plain = convnet(tiny_spec)
    plain.load_state_dict(module.network.state_dict())
    fit(module, bank, tiny_spec, tmp_path)
    losses = by_hand(plain, tiny_teacher, bank)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(module.network.state_dict()[name], tensor), name
    assert logged(tmp_path, "student/distillation") == pytest.approx(losses, rel=1e-5)


def test_what_the_teacher_has_said_of_stored_images_is_not_asked_again(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    bank = filled_bank(tiny_spec)
    logits = predict(tiny_teacher, [bank]).logits
    modules = [student(tiny_spec, tiny_teacher) for _ in range(2)]
    modules[1].network.load_state_dict(modules[0].network.state_dict())
    asked: list[int] = []
    hook = tiny_teacher.register_forward_hook(lambda *_: asked.append(1))
    for module, known in zip(modules, (None, [logits]), strict=True):
        job(tmp_path / str(known is None)).fit(
            "stage_b",
            module,
            epochs=2,
            state=tmp_path / str(known is None) / "state",
            batches=ReplayBatches([bank], batch_size=8, steps=4, seed=0, logits=known),
            test=labelled(tiny_spec, 4),
        )
    hook.remove()
    assert len(asked) == 2 * 4
    for mine, other in zip(*(m.network.parameters() for m in modules), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_learns_what_the_teacher_knows(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, bank: ImageBank, tmp_path: Path
) -> None:
    tiny_teacher.network.head.weight.data *= 20
    fit(student(tiny_spec, tiny_teacher), bank, tiny_spec, tmp_path, epochs=20)
    losses = logged(tmp_path, "student/distillation")
    assert losses[-1] < losses[0] / 3


def test_the_accuracy_is_that_of_the_plain_network(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, bank: ImageBank, tmp_path: Path
) -> None:
    test = labelled(tiny_spec, 20)
    for module in (
        student(tiny_spec, tiny_teacher),
        kdci_student(tiny_spec, tiny_teacher, loaded=dictionary(), strength=50.0),
    ):
        folder = tmp_path / type(module).__name__
        job(folder).fit(
            "stage_b", module, epochs=1, state=folder / "s", batches=replay(bank), test=test
        )
        assert module.acc1["last"] == pytest.approx(accuracy(module.network, test))


class Scripted(nn.Module):
    """Stands for a metric whose value is known beforehand."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = list(values)

    def compute(self) -> Tensor:
        return torch.tensor(self.values.pop(0))

    def reset(self) -> None: ...


@pytest.mark.parametrize("compensated", [False, True])
def test_last_and_best_are_kept_apart(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    compensated: bool,
) -> None:
    make = kdci_student if compensated else student
    module: Any = make(tiny_spec, tiny_teacher)
    module.plain_accuracy = Scripted(0.5, 0.75, 0.25)
    module.compensated_accuracy = Scripted(0.1, 0.2, 0.3)
    seen = []
    for _ in range(3):
        module.on_validation_epoch_end()
        seen.append((module.acc1["last"], module.acc1["best"]))
    assert seen == [(50, 50), (75, 75), (25, 75)]
    assert module.acc1["compensated"] == (pytest.approx(30) if compensated else None)


@pytest.mark.parametrize("compensated", [False, True])
def test_the_accuracy_after_an_epoch_stands_in_the_row_of_its_loss(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    bank: ImageBank,
    tmp_path: Path,
    compensated: bool,
) -> None:
    make = kdci_student if compensated else student
    module: Any = make(tiny_spec, tiny_teacher)

    class Steps(nn.Module):
        """Stands for an accuracy: one percent for each step that the student has taken."""

        def update(self, logits: Tensor, labels: Tensor) -> None: ...

        def compute(self) -> Tensor:
            return torch.tensor(module.student_step / 100)

        def reset(self) -> None: ...

    module.plain_accuracy = module.compensated_accuracy = Steps()
    fit(module, bank, tiny_spec, tmp_path)
    with (tmp_path / "metrics" / "stage_b" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["student/epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["student/acc"]) for row in rows] == pytest.approx([4, 8, 12])
    assert all(row["student/distillation"] for row in rows)
    compensation = {"student/acc_compensated", "student/compensation_ratio"}
    assert compensation & rows[0].keys() == (compensation if compensated else set())


@pytest.mark.parametrize(
    ("steps", "rates"),
    [(None, [0.1, 0.05, 0.025]), (2, [0.025, 0.00625, 0.0015625]), (5, [0.1, 0.05, 0.025])],
)
def test_the_schedule_counts_epochs_or_student_steps(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    bank: ImageBank,
    tmp_path: Path,
    steps: int | None,
    rates: list[float],
) -> None:
    module = student(tiny_spec, tiny_teacher, scheduler=EXPONENTIAL, scheduler_steps=steps)
    fit(module, bank, tiny_spec, tmp_path)
    assert logged(tmp_path, "student/lr") == pytest.approx(rates)
    assert module.student_step == 12
    assert logged(tmp_path, "student/epoch") == [1, 2, 3]


def test_an_objective_with_parameters_trains_them_apart(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, bank: ImageBank, tmp_path: Path
) -> None:
    objective = NoisyDistillationObjective(tiny_spec.num_classes, 0.9)
    before = [p.clone() for p in objective.parameters()]
    module = student(tiny_spec, tiny_teacher, objective=objective, objective_lr=1e-2)
    own, other = module.configure_optimizers()
    assert isinstance(other, torch.optim.Adam)
    assert other.param_groups[0]["lr"] == 1e-2
    assert len(own.param_groups) == 1
    fit(module, bank, tiny_spec, tmp_path)
    assert not any(map(torch.equal, objective.parameters(), before))


def test_an_objective_has_the_rate_that_it_has_alongside_stage_a() -> None:
    rates = [
        inspect.signature(kind).parameters["objective_lr"].default
        for kind in (StudentModule, CompanionStudent)
    ]
    assert rates == [1e-3, 1e-3]


def test_ranks_evaluate_and_leave_the_student_that_the_first_one_has(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = student(tiny_spec, tiny_teacher)
    statistics = [buffer for buffer in module.network.buffers() if buffer.is_floating_point()]
    compared: list[list[bool]] = []

    def of_the_first(shown: nn.Module) -> None:
        for buffer in shown.buffers():
            buffer.fill_(3)

    def compare(tensors: Iterable[Tensor], what: str) -> None:
        pairs = zip(tensors, module.network.state_dict().values(), strict=True)
        assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)
        compared.append([bool((buffer == 3).all()) for buffer in statistics])

    monkeypatch.setattr("src.student.module.broadcast_buffers", of_the_first)
    monkeypatch.setattr("src.student.module.require_equal_on_all_ranks", compare)
    module.on_validation_start()
    assert all((buffer == 3).all() for buffer in statistics)
    for buffer in statistics:
        buffer.fill_(1)
    module.on_train_end()
    assert compared == [[True] * len(statistics)]


def test_a_loss_that_is_not_finite_names_its_step_and_saves_nothing(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, bank: ImageBank, tmp_path: Path
) -> None:
    tiny_teacher.network.head.bias.data[0] = float("nan")
    with pytest.raises(FloatingPointError, match=f"{BAD_PLACE} 0"):
        fit(student(tiny_spec, tiny_teacher), bank, tiny_spec, tmp_path)
    assert not list((tmp_path / "state").glob("*"))


FAR: Any = partial(torch.optim.SGD, lr=float("inf"))  # one step makes weights infinite


@pytest.mark.parametrize(
    ("case", "place"),
    [
        ("network", r"network\.\S+"),
        ("adjustment", r"adjustment\.\S+"),
        ("objective", r"objective\.noise\.off_diagonal"),
    ],
)
def test_what_the_last_step_ruined_is_named_and_never_saved(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path, case: str, place: str
) -> None:
    if case == "network":
        module = student(tiny_spec, tiny_teacher, optimizer=FAR)
    elif case == "adjustment":
        module = kdci_student(tiny_spec, tiny_teacher, loaded=dictionary(), lr_scale=float("inf"))
    else:
        loss = NoisyDistillationObjective(tiny_spec.num_classes, 0.9)
        module = student(tiny_spec, tiny_teacher, objective=loss, objective_lr=float("inf"))
    one_step = ReplayBatches([filled_bank(tiny_spec)], batch_size=8, steps=1, seed=0)
    with pytest.raises(FloatingPointError, match=f"^'{place}' of the student holds NaN"):
        job(tmp_path).fit(
            "stage_b",
            module,
            epochs=1,
            state=tmp_path / "state",
            batches=one_step,
            test=labelled(tiny_spec),
        )
    assert not list((tmp_path / "state").glob("*"))
    assert module.acc1["last"] is None or case == "objective"


@pytest.mark.parametrize("compensated", [False, True])
def test_predictions_that_are_not_finite_have_no_accuracy(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, compensated: bool
) -> None:
    module: StudentModule = student(tiny_spec, tiny_teacher)
    if compensated:
        module = kdci_student(tiny_spec, tiny_teacher, loaded=dictionary())
    for parameter in module.network.head.parameters():
        parameter.data.fill_(3e38)  # finite, but their sums are not
    batches = list(labelled(tiny_spec))
    for index, batch in enumerate(batches):
        module.eval().validation_step(batch, index)
    with pytest.raises(FloatingPointError, match=r"no accuracy; .*Lower the learning rate"):
        module.on_validation_epoch_end()
    assert module.acc1["last"] is None


def test_a_compensated_prediction_alone_can_be_at_fault(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    module = kdci_student(tiny_spec, tiny_teacher, loaded=dictionary())
    assert module.adjustment.project is not None
    module.adjustment.project.data.fill_(float("nan"))
    module.eval().validation_step(next(iter(labelled(tiny_spec))), 0)
    with pytest.raises(FloatingPointError, match=r"'adjustment\.project' of the student"):
        module.on_validation_epoch_end()


@pytest.mark.parametrize("fusion", ["residual", "linear"])
def test_accuracies_are_those_of_float32_logits_under_autocast(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, fusion: str
) -> None:
    module = kdci_student(tiny_spec, tiny_teacher, loaded=dictionary(), fusion=fusion)
    seen: list[Tensor] = []
    for name in ("plain_accuracy", "compensated_accuracy"):
        getattr(module, name).update = lambda logits, labels: seen.append(logits)
    with torch.autocast("cpu", torch.bfloat16):
        module.eval().validation_step(next(iter(labelled(tiny_spec))), 0)
    assert [logits.dtype for logits in seen] == [torch.float32] * 2


def test_the_teacher_is_outside_the_module_and_stays_as_it_was(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, bank: ImageBank, tmp_path: Path
) -> None:
    before = tiny_teacher.fingerprint()
    module = fit(student(tiny_spec, tiny_teacher), bank, tiny_spec, tmp_path)
    assert tiny_teacher.fingerprint() == before
    assert not any("teacher" in name for name in module.state_dict())


def test_the_objective_sees_the_teacher_on_the_same_images(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, bank: ImageBank, tmp_path: Path
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Watching(nn.Module):
        def forward(self, output: StudentOutput, teacher_logits: Tensor) -> Tensor:
            assert output.logits is output.plain_logits
            assert not teacher_logits.requires_grad
            seen.append((output.logits, teacher_logits))
            return output.logits.square().mean()

    fit(student(tiny_spec, tiny_teacher, objective=Watching()), bank, tiny_spec, tmp_path, 1)
    expected = [tiny_teacher(images).logits for images in replay(bank)]
    assert all(torch.equal(logits, e) for (_, logits), e in zip(seen, expected, strict=True))


def test_gradients_are_not_narrowed_by_autocast(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    bank: ImageBank,
    tmp_path: Path,
    backward_passes: list[bool],
) -> None:
    module = fit(student(tiny_spec, tiny_teacher), bank, tiny_spec, tmp_path, 1, "bf16-mixed")
    assert backward_passes == [False] * module.student_step


@pytest.mark.parametrize("compensated", [False, True])
def test_the_accuracies_of_an_epoch_are_of_its_predictions_alone(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, compensated: bool
) -> None:
    make: Any = partial(kdci_student, loaded=dictionary()) if compensated else student
    module = make(tiny_spec, tiny_teacher).eval()
    images, _ = next(iter(labelled(tiny_spec, 20)))
    output = module.student_output(images)
    name, logits = ("compensated", output.logits) if compensated else ("last", output.plain_logits)
    right = logits.argmax(1)
    for labels, expected in ((right, 100), ((right + 1) % tiny_spec.num_classes, 0)):
        module.validation_step((images, labels), 0)
        module.on_validation_epoch_end()
        assert module.acc1[name] == expected


def test_accuracies_survive_saving(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> None:
    first, second = (student(tiny_spec, tiny_teacher) for _ in range(2))
    first.acc1 = {"last": 25.0, "best": 75.0, "compensated": None}
    second.load_state_dict(first.state_dict())
    assert second.acc1 == first.acc1


def test_the_best_of_low_accuracies_is_no_higher_than_they_are(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    module: Any = student(tiny_spec, tiny_teacher)
    module.plain_accuracy = Scripted(0.0, 0.005, 0.002)
    found = []
    for _ in range(3):
        module.on_validation_epoch_end()
        found.append(module.acc1["best"])
    assert found == pytest.approx([0, 0.5, 0.5])


@pytest.mark.parametrize("compensated", [False, True])
def test_what_is_logged_is_a_mean_over_ranks(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    bank: ImageBank,
    tmp_path: Path,
    averaged: dict[str, bool],
    compensated: bool,
) -> None:
    make = kdci_student if compensated else student
    fit(make(tiny_spec, tiny_teacher), bank, tiny_spec, tmp_path, epochs=1)
    assert {"student/distillation", "student/acc"} <= averaged.keys()
    assert all(averaged.values())
