from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from src.common.errors import UserError
from src.common.freezing import mode
from src.dataset.contract import ImageSpec
from src.pipeline.held_out import agreement, by_bank, held_out
from src.pipeline.job import Job
from src.pipeline.stage_b import _inclusion
from src.student.module import StudentModule
from src.substitution.batches import ReplayBatches
from src.substitution.module import Recording, predict
from src.teacher.frozen import FrozenTeacher
from tests.toys import filled_bank, job, kdci_student, labelled, states_equal, student


def a_job(folder: Path, share: float = 0.25) -> Job:
    made = job(folder)
    config: Any = made.config
    config.seed, config.distill = 3, SimpleNamespace(held_out=share, repeat=5)
    config.trainer = made.config.trainer
    return made


@pytest.fixture
def recording(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> Recording:
    banks = [filled_bank(tiny_spec, 300), filled_bank(tiny_spec, 20)]
    return predict(tiny_teacher, banks)


def test_nothing_is_held_out_by_default(
    tmp_path: Path, tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, recording: Recording
) -> None:
    plain, module = a_job(tmp_path, share=0), student(tiny_spec, tiny_teacher)
    assert held_out(plain, recording) is None
    assert agreement(plain, recording, module) is None
    assert _inclusion(module, recording, None) is None  # the batches of before


def test_what_is_held_out_is_met_by_no_student(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, recording: Recording
) -> None:
    rows = [torch.tensor([1, 298]), torch.tensor([0])]
    module = student(tiny_spec, tiny_teacher)
    first, second = _inclusion(module, recording, rows) or [torch.empty(0)] * 2
    assert (first == 0).nonzero()[:, 0].tolist() == [1, 298]
    assert second.tolist() == [0.0, *[1.0] * 19]


@pytest.mark.parametrize("weight", [0.0, 4.0, float("nan")])
def test_weights_that_are_no_probabilities_are_refused(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    monkeypatch: pytest.MonkeyPatch,
    weight: float,
) -> None:
    """Above 1 they would do nothing, and with zeros alone no epoch would begin."""
    module, weights = kdci_student(tiny_spec, tiny_teacher), torch.ones(320)
    weights[3] = weight
    monkeypatch.setattr(module.adjustment, "weights", lambda _: weights)
    with pytest.raises(UserError, match=r"Expected weights in \(0, 1\] of kdci\.adjustment"):
        _inclusion(module, recording, None)


def test_the_weights_of_an_adjustment_stay_beside(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, weights = kdci_student(tiny_spec, tiny_teacher), torch.linspace(0.1, 1, 320)
    monkeypatch.setattr(module.adjustment, "weights", lambda _: weights)
    whole = _inclusion(module, recording, None) or []
    assert torch.equal(torch.cat(whole), weights)
    parted = torch.cat(_inclusion(module, recording, [torch.tensor([7]), torch.tensor([3])]) or [])
    expected = weights.clone()
    expected[[7, 303]] = 0
    # Relative to the heaviest that is left in each bank: all of those may be held out.
    expected = torch.cat([part / part.max() for part in expected.split([300, 20])])
    assert torch.equal(parted, expected)
    assert torch.equal(weights, torch.linspace(0.1, 1, 320))


def test_agreement_counts_equal_predictions_of_held_out_images(
    tmp_path: Path, tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, recording: Recording
) -> None:
    made, module = a_job(tmp_path), student(tiny_spec, tiny_teacher)
    rows = held_out(made, recording) or []
    assert [len(each) for each in rows] == [75, 5]
    hits, logits = [], by_bank(recording, recording.logits)
    with torch.no_grad(), mode(module.network, False):
        for bank, kept, said in zip(recording.banks, rows, logits, strict=True):
            for row in kept:
                mine = module.network(bank.batch(row[None])).argmax(1)
                hits.append(bool(mine == said[row].argmax()))
    found = agreement(made, recording, module)
    said = [row for part, kept in zip(logits, rows, strict=True) for row in part[kept].argmax(1)]
    most = 100 * torch.stack(said).bincount().max().item() / 80
    assert found == {"images": 80, "agreement": 100 * sum(hits) / 80, "one_class": most}
    assert 0 < sum(hits) < 80


def test_the_teacher_agrees_with_itself(
    tmp_path: Path, tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, recording: Recording
) -> None:
    module = student(tiny_spec, tiny_teacher)
    module.network.load_state_dict(tiny_teacher.network.state_dict())
    found = agreement(a_job(tmp_path), recording, module)
    assert found is not None
    assert found["agreement"] == 100.0


def test_what_is_held_out_is_of_the_seed_and_not_of_a_repeat(
    tmp_path: Path, recording: Recording
) -> None:
    found = []
    for seed, repeat in ((3, 5), (3, 0), (4, 5)):
        made = a_job(tmp_path)
        made.config.seed, made.config.distill.repeat = seed, repeat
        found.append(held_out(made, recording) or [])
    first, repeated, other = (torch.cat(rows) for rows in found)
    assert torch.equal(first, repeated)
    assert not torch.equal(first, other)


def test_it_is_the_plain_prediction_that_agrees(
    tmp_path: Path,
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = student(tiny_spec, tiny_teacher)
    module.network.load_state_dict(tiny_teacher.network.state_dict())
    monkeypatch.setattr(module, "plain_logits", lambda raw: raw.roll(1, dims=1))
    found = agreement(a_job(tmp_path), recording, module)
    assert found is not None
    assert found["agreement"] == 0.0


def test_agreement_is_counted_over_all_ranks(
    tmp_path: Path,
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own: list[Tensor] = []

    def summed(counted: Tensor) -> Tensor:
        own.append(counted)
        return torch.tensor([1, 0, 0, 2, 1, 0])  # one of three images, which are of two classes

    monkeypatch.setattr("src.pipeline.held_out.sum_over_ranks", summed)
    of_one_class = recording._replace(logits=torch.eye(4)[0].expand(320, 4))
    found = agreement(a_job(tmp_path), of_one_class, student(tiny_spec, tiny_teacher))
    assert found == {"images": 3, "agreement": 33.3333, "one_class": 66.6667}
    assert own[0][2:].tolist() == [80, 0, 0, 0]  # as long on every rank


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_broken_student_agrees_with_nobody(
    tmp_path: Path,
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    recording: Recording,
    bad: float,
) -> None:
    module = student(tiny_spec, tiny_teacher)
    module.network.head.bias.data[0] = bad
    with pytest.raises(FloatingPointError, match="held-out substitution images are NaN"):
        agreement(a_job(tmp_path), recording, module)


def trained(
    folder: Path, spec: ImageSpec, teacher: FrozenTeacher, recording: Recording, *, lies: bool
) -> tuple[StudentModule, Any]:
    """A student and its agreement; a test split that lies says that all are of one class."""
    made, test = a_job(folder), labelled(spec)
    test.split.labels[:] *= not lies
    torch.manual_seed(0)
    module = student(spec, teacher)
    inclusion = _inclusion(module, recording, held_out(made, recording))
    batches = ReplayBatches(recording.banks, 4, 5, 0, inclusion=inclusion)
    made.fit("stage_b", module, epochs=2, state=folder / "state", batches=batches, test=test)
    return module, agreement(made, recording, module)


def test_a_misleading_test_split_moves_no_agreement(
    tmp_path: Path, tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, recording: Recording
) -> None:
    options = tiny_spec, tiny_teacher, recording
    honest, first = trained(tmp_path / "honest", *options, lies=False)
    misled, second = trained(tmp_path / "misled", *options, lies=True)
    assert first == second
    assert first["images"] == 80
    assert states_equal(honest.network, misled.network)
    assert honest.acc1["last"] != misled.acc1["last"]
