import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.augment import Augmentation
from src.common.errors import UserError
from src.dataset.contract import ImageSpec
from src.kdci.adjustment import Adjustment
from src.kdci.compensation import BackdoorCompensation
from src.objective.distillation import DistillationObjective, StudentOutput
from src.student.kdci_student import KDCIStudent
from src.student.module import StudentModule
from src.substitution.batches import ReplayBatches
from src.teacher.frozen import FrozenTeacher
from tests.toys import (
    SGD,
    convnet,
    dictionary,
    filled_bank,
    job,
    kdci_student,
    labelled,
    states_equal,
    student,
)


def trained(module: Any, spec: ImageSpec, folder: Path, epochs: int = 2) -> Any:
    torch.manual_seed(1)
    bank = filled_bank(spec, augmentation=Augmentation(1, 0.5))
    batches = ReplayBatches([bank], batch_size=8, steps=4, seed=0)
    test = labelled(spec)
    job(folder).fit(
        "stage_b", module, epochs=epochs, state=folder / "s", batches=batches, test=test
    )
    return module


def pair(
    spec: ImageSpec, teacher: FrozenTeacher, **options: Any
) -> tuple[StudentModule, KDCIStudent]:
    """The same student without and with compensation."""
    loaded = dictionary()
    torch.manual_seed(0)
    vanilla = student(spec, teacher)
    torch.manual_seed(0)
    return vanilla, kdci_student(spec, teacher, loaded=loaded, **options)


def test_starts_from_the_student_of_the_vanilla_run(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    vanilla, compensated = pair(tiny_spec, tiny_teacher, fusion="linear")
    assert states_equal(vanilla.network, compensated.network)


def test_no_strength_trains_the_vanilla_student_bit_for_bit(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    vanilla, compensated = pair(tiny_spec, tiny_teacher, strength=0.0)
    trained(vanilla, tiny_spec, tmp_path / "vanilla")
    trained(compensated, tiny_spec, tmp_path / "compensated")
    assert states_equal(vanilla.network, compensated.network)
    assert vanilla.acc1["last"] == compensated.acc1["last"] == compensated.acc1["compensated"]


def test_the_compensation_changes_what_the_student_learns(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    vanilla, compensated = pair(tiny_spec, tiny_teacher)
    initial = {name: p.clone() for name, p in compensated.adjustment.named_parameters()}
    trained(vanilla, tiny_spec, tmp_path / "vanilla")
    trained(compensated, tiny_spec, tmp_path / "compensated")
    assert not states_equal(vanilla.network, compensated.network)
    for name, parameter in compensated.adjustment.named_parameters():
        assert not torch.equal(parameter, initial[name]), name


def test_the_dictionary_stays_as_it_was(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    _, module = pair(tiny_spec, tiny_teacher)
    before = module.adjustment.prototypes.clone(), module.adjustment.prior.clone()
    trained(module, tiny_spec, tmp_path)
    assert torch.equal(module.adjustment.prototypes, before[0])
    assert torch.equal(module.adjustment.prior, before[1])


@pytest.mark.parametrize("fusion", ["residual", "linear"])
def test_output_is_compensated_beside_the_plain_prediction(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, fusion: str
) -> None:
    _, module = pair(tiny_spec, tiny_teacher, fusion=fusion)
    module.eval()
    images = torch.randn(5, 3, 8, 8)
    output = module.student_output(images)
    own = module.network(images)
    assert torch.equal(output.logits, module.adjustment(own))
    assert torch.equal(output.plain_logits, module.adjustment.plain(own))
    assert torch.equal(output.plain_logits, module.plain_logits(own))


@pytest.mark.parametrize("lr_scale", [1.0, 0.25, 0.0])
def test_the_compensation_has_its_own_rate(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, lr_scale: float
) -> None:
    module = kdci_student(tiny_spec, tiny_teacher, lr_scale=lr_scale)
    own, attached = module.parameter_groups()
    assert own["lr"] == 0.1
    assert attached["lr"] == 0.1 * lr_scale
    assert {id(p) for p in attached["params"]} == {id(p) for p in module.adjustment.parameters()}


def test_a_compensation_without_parameters_adds_no_group(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    module = kdci_student(tiny_spec, tiny_teacher, attention="uniform", projection="identity")
    assert len(module.parameter_groups()) == 1


class Weighing(Adjustment):
    """Samples of class 0, and of each other one a thousandth of them."""

    def weights(self, teacher_logits: Tensor) -> Tensor | None:
        return (teacher_logits.argmax(1) == 0).double().clamp(min=1e-3)


def weighing(
    spec: ImageSpec, teacher: FrozenTeacher, seed: int | None, kind: type[Adjustment] = Weighing
) -> KDCIStudent:
    adjustment = kind(dictionary(), num_classes=4, seed=0)
    return KDCIStudent(
        convnet(spec),
        teacher,
        DistillationObjective(2.0),
        SGD,
        adjustment=adjustment,
        resampling_seed=seed,
    )


def test_an_online_batch_is_drawn_again_by_weight(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    rows = weighing(tiny_spec, tiny_teacher, 0).drawn(torch.eye(4).repeat(2, 1))
    assert rows is not None
    assert rows.tolist() == [0] * 4 + [4] * 4


def test_every_step_and_rank_draws_with_dice_of_its_own(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, logits = weighing(tiny_spec, tiny_teacher, 0), torch.randn(50, 4)
    monkeypatch.setattr(module.adjustment, "weights", lambda _: torch.linspace(0.1, 1, 50))

    def drawn(step: int, seed: int = 0) -> list[int]:
        module.student_step, module.resampling_seed = step, seed
        torch.randn(3)
        rows = module.drawn(logits)
        assert rows is not None
        return rows.tolist()

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert drawn(0) != drawn(0, seed=1)
    first = drawn(0)
    monkeypatch.setattr("src.kdci.mixin.rank", lambda: 1)
    assert drawn(0) != first


@pytest.mark.parametrize("weights", [[0.0] * 8, [1.0] * 7 + [math.nan], [-1.0] * 8, [2.0] * 8])
def test_weights_that_are_no_probabilities_are_refused(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    monkeypatch: pytest.MonkeyPatch,
    weights: list[float],
) -> None:
    module = weighing(tiny_spec, tiny_teacher, 0)
    monkeypatch.setattr(module.adjustment, "weights", lambda _: torch.tensor(weights))
    with pytest.raises(UserError, match=r"in \(0, 1\] of kdci\.adjustment, but Weighing gave"):
        module.drawn(torch.randn(8, 4))


def test_a_batch_that_comes_weighted_is_left_alone(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    for module in (
        weighing(tiny_spec, tiny_teacher, None),
        weighing(tiny_spec, tiny_teacher, 0, Adjustment),
    ):
        assert module.drawn(torch.randn(8, 4)) is None


def test_only_what_changes_the_prediction_is_evaluated_compensated(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    assert kdci_student(tiny_spec, tiny_teacher).is_compensated
    assert not weighing(tiny_spec, tiny_teacher, 0).is_compensated


@pytest.mark.parametrize("fusion", ["residual", "linear"])
def test_what_is_watched_is_the_size_of_the_compensation_beside_the_logits(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, fusion: str
) -> None:
    _, module = pair(tiny_spec, tiny_teacher, fusion=fusion, strength=3.0)
    compensation = module.adjustment
    assert isinstance(compensation, BackdoorCompensation)
    if compensation.fuse is not None:
        compensation.fuse.data.mul_(2)
    module.eval()
    images = torch.randn(5, 3, 8, 8)
    output, logits = module.student_output(images), module.network(images).detach()
    expected = compensation.expect(compensation.log_attention(logits) + compensation.prior.log())
    assert compensation.project is not None
    added = 3 * expected @ compensation.project.T
    ratio = module.watched(output)["compensation_ratio"]
    assert not ratio.requires_grad
    assert ratio.item() == pytest.approx(
        (added.norm(dim=1).sum() / output.plain_logits.norm(dim=1).sum()).item()
    )


def test_the_ratio_of_every_epoch_is_the_mean_of_its_steps(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    seen: list[float] = []

    class Watching(KDCIStudent):
        def watched(self, output: StudentOutput) -> dict[str, Tensor]:
            found = super().watched(output)
            seen.append(found["compensation_ratio"].item())
            return found

    _, module = pair(tiny_spec, tiny_teacher)
    module.__class__ = Watching
    trained(module, tiny_spec, tmp_path)
    with (tmp_path / "metrics/stage_b/metrics.csv").open() as file:
        logged = [float(row["student/compensation_ratio"]) for row in csv.DictReader(file)]
    assert logged == pytest.approx([sum(seen[:4]) / 4, sum(seen[4:]) / 4])


def test_watching_changes_no_weight(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    class Blind(KDCIStudent):
        def watched(self, output: StudentOutput) -> dict[str, Tensor]:
            return {}

    torch.manual_seed(0)
    loaded = dictionary()
    students = []
    for kind in (KDCIStudent, Blind):
        torch.manual_seed(0)
        module = kdci_student(tiny_spec, tiny_teacher, loaded=loaded, fusion="linear")
        module.__class__ = kind
        students.append(trained(module, tiny_spec, tmp_path / kind.__name__))
    assert states_equal(*students)


def test_a_student_that_says_zero_of_everything_has_a_finite_ratio(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    _, module = pair(tiny_spec, tiny_teacher)
    zero = torch.zeros(2, tiny_spec.num_classes)
    watched = module.watched(StudentOutput(module.adjustment(zero), zero))
    assert watched["compensation_ratio"].isfinite()
