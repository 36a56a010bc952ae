import copy
import csv
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from lightning.pytorch.strategies import Strategy
from torch import Tensor, nn

from src.common.augment import Augmentation
from src.common.errors import UserError
from src.common.seeding import seed_all
from src.dataset.contract import ImageSpec
from src.student.companion import CompanionStudent
from src.substitution.contract import Baseline, advance
from src.substitution.image_bank import ImageBank, banks_of
from src.substitution.module import SubstitutionModule, predict
from src.teacher.frozen import FrozenTeacher
from tests.toys import SGD, Toy, convnet, filled_bank, job, states_equal


@pytest.fixture
def toy(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> Toy:
    return Toy(teacher=tiny_teacher, spec=tiny_spec)


def make(baseline: Baseline, **options: Any) -> SubstitutionModule:
    lengths = {"rounds": 7, "num_images": 25, "record_from": 0.5, "log_every": 3}
    return SubstitutionModule(baseline, **(lengths | options))


def fit(module: SubstitutionModule, folder: Path) -> SubstitutionModule:
    epochs = -(-module.rounds // module.log_every)
    files = banks_of(module.baseline)
    job(folder).fit("stage_a", module, epochs=epochs, state=folder / "state", files=files)
    return module


def companion(spec: ImageSpec, baseline: Baseline, **options: Any) -> CompanionStudent:
    return CompanionStudent(
        convnet(spec),
        baseline.objective(),
        optimizer=SGD,
        scheduler=None,
        scheduler_steps=10,
        steps_per_round=2,
        batch_size=6,
        **options,
    )


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics" / "stage_a" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_what_is_recorded_does_not_grow_with_the_banks(toy: Toy, tmp_path: Path) -> None:
    recording = fit(make(toy), tmp_path).recording()
    before = [bank.images.clone() for bank in recording.banks]
    for bank in toy.substitution_data():
        bank.append(bank.images[:3])
    assert [len(bank) for bank in toy.substitution_data()] == [28]
    torch.testing.assert_close([bank.images for bank in recording.banks], before)


def test_runs_every_round_and_no_more(toy: Toy, tmp_path: Path) -> None:
    module = fit(make(toy), tmp_path)
    assert (module.round, module.epochs_done) == (7, 3)
    assert [float(row["stage_a/round"]) for row in logged(tmp_path)] == [3, 6, 7]
    steps = toy.optimizer.state[toy.generator.weight]["step"]
    assert steps == 7


def test_is_the_plain_loop_over_rounds(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    hosted, plain = (Toy(teacher=tiny_teacher, spec=tiny_spec) for _ in range(2))
    plain.load_state_dict(hosted.state_dict())
    seed_all(1)
    fit(make(hosted, record_from=1.0), tmp_path)
    seed_all(1)
    terms = [plain.refresh(None) for _ in range(7)]
    plain.harvest(25)
    assert states_equal(hosted, plain)
    assert torch.equal(hosted.bank.images, plain.bank.images)
    expected = torch.stack([term["confident"] for term in terms[:3]]).mean()
    assert float(logged(tmp_path)[0]["stage_a/confident"]) == pytest.approx(float(expected))


@pytest.mark.parametrize(("record_from", "first"), [(0.0, 0), (0.5, 3), (0.9, 6), (1.0, 6)])
@pytest.mark.parametrize("num_images", [1, 25, 1000])
def test_recording_is_spread_evenly_over_the_rounds_that_remain(
    toy: Toy, tmp_path: Path, record_from: float, first: int, num_images: int
) -> None:
    harvested: list[int] = []
    toy.harvest = harvested.append  # type: ignore[method-assign, assignment]
    fit(make(toy, record_from=record_from, num_images=num_images), tmp_path)
    assert sum(harvested) == num_images
    assert harvested[:first] == [0] * first
    assert max(harvested[first:]) - min(harvested[first:]) <= 1


def test_the_recording_holds_all_images_and_what_the_teacher_says(
    toy: Toy, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    module = fit(make(toy), tmp_path)
    recording = module.recording()
    (bank,) = recording.banks
    assert torch.equal(bank.images, toy.bank.images)
    assert len(toy.bank) == 25
    output = tiny_teacher(toy.bank.batch(torch.arange(25)))
    torch.testing.assert_close(recording.logits, output.logits)
    torch.testing.assert_close(recording.features, output.features)
    assert module.recording().logits is recording.logits


def test_what_was_recorded_in_the_fit_holds_no_memory_of_its_own(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, where Lightning's teardown moves the banks away and the job moves them back."""
    module, known, teardown = make(toy), list[ref[Tensor]](), Strategy.teardown

    def record(*_: Any) -> None:
        known.append(ref(module.recording().banks[0]._rows))

    def move(strategy: Any) -> None:
        teardown(strategy)
        toy.bank._rows = toy.bank._rows.clone()

    monkeypatch.setattr(module, "on_train_end", record)
    monkeypatch.setattr(Strategy, "teardown", move)
    recording = fit(module, tmp_path).recording()
    assert [rows() for rows in known] == [None]
    assert recording.banks[0].images.data_ptr() == toy.bank.images.data_ptr()


def test_predictions_follow_the_order_of_the_banks(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    banks = [filled_bank(tiny_spec, 300, augmentation=Augmentation(2)), filled_bank(tiny_spec, 5)]
    recording = predict(tiny_teacher, banks)
    expected = [tiny_teacher(bank.batch(torch.arange(len(bank)))).logits for bank in banks]
    torch.testing.assert_close(recording.logits, torch.cat(expected))
    assert recording.logits.device.type == "cpu"
    assert not recording.logits.requires_grad


def test_a_companion_learns_between_the_rounds(
    toy: Toy, tiny_spec: ImageSpec, tmp_path: Path
) -> None:
    student = companion(tiny_spec, toy)
    module = fit(make(toy, companion=student), tmp_path)
    assert student.student_step == 7 * 2
    assert "distillation" in module.losses


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_round_leaves_the_student_as_it_was(toy: Toy, tiny_spec: ImageSpec, mode: str) -> None:
    student = convnet(tiny_spec).train()
    student.stages[1].eval()
    toy.student_mode = mode  # type: ignore[misc, assignment]
    modes = [module.training for module in student.modules()]
    before = {name: value.clone() for name, value in student.state_dict().items()}
    terms = advance(toy, student)
    assert toy.seen_modes == [mode == "train"]
    assert [module.training for module in student.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in student.parameters())
    moved = {name for name, value in student.state_dict().items() if not value.equal(before[name])}
    assert moved <= {name for name, _ in student.named_buffers()}
    assert bool(moved) == (mode == "train")
    assert not any(term.requires_grad for term in terms.values())


def test_a_round_without_a_student_has_none(toy: Toy) -> None:
    advance(toy, None)
    assert toy.seen_modes == []


def test_the_teacher_is_outside_the_state_and_stays_as_it_was(
    toy: Toy, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    before = tiny_teacher.fingerprint()
    module = fit(make(toy), tmp_path)
    assert tiny_teacher.fingerprint() == before
    assert not any("teacher" in name for name in module.state_dict())
    assert tiny_teacher not in set(module.modules())


def test_a_term_that_is_not_finite_names_its_round(toy: Toy, tmp_path: Path) -> None:
    refresh, rounds = toy.refresh, iter(range(100))

    def diverge(student: nn.Module | None) -> dict[str, Tensor]:
        terms = refresh(student)
        return terms | {"total": terms["total"] / (0.0 if next(rounds) >= 4 else 1.0)}

    toy.refresh = diverge  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match="'total' is not finite at round 4"):
        fit(make(toy), tmp_path)
    assert [path.name for path in (tmp_path / "state").glob("*.pt")] == ["epoch1_rank0.pt"]


class Ruined(Toy):
    """At its fifth round something goes wrong that no loss term tells."""

    where = ""

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        terms, self.rounds = super().refresh(student), getattr(self, "rounds", 0) + 1
        if self.rounds == 5 and self.where == "network":
            self.generator.bias.data[3] = float("nan")
        if self.rounds == 5 and self.where == "images":
            self.bank.append(torch.full((2, *self.shape), float("nan")))
        return terms


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("network", "'bias' of the Linear of Ruined holds NaN"),
        ("images", "Images of Ruined are NaN or infinite"),
        ("companion", r"'network\.\S+' of the student trained alongside holds NaN"),
    ],
)
def test_what_no_term_tells_ends_the_fit_before_it_is_saved(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path, where: str, message: str
) -> None:
    toy = Ruined(teacher=tiny_teacher, spec=tiny_spec)
    toy.where = where
    options: dict[str, Any] = {"rounds": 5}
    if where == "companion":
        options["companion"] = student = companion(tiny_spec, toy)
        learn = student.learn

        def ruin(baseline: Baseline) -> dict[str, Tensor]:
            terms = learn(baseline)
            if student.round == 5:
                student.network.head.bias.data[0] = float("inf")
            return terms

        student.learn = ruin  # type: ignore[method-assign]
    with pytest.raises(FloatingPointError, match=message):
        fit(make(toy, record_from=1.0, num_images=0, **options), tmp_path)
    assert [path.name for path in (tmp_path / "state").glob("*.pt")] == ["epoch1_rank0.pt"]


def test_nothing_is_recorded_of_images_that_are_not_finite(toy: Toy) -> None:
    toy.bank.append(torch.full((2, *toy.shape), float("nan")))
    with pytest.raises(FloatingPointError, match="Images of Toy are NaN"):
        make(toy).recording()


@pytest.mark.parametrize("place", ["logits", "features"])
def test_a_teacher_whose_predictions_are_not_finite_is_named(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, place: str
) -> None:
    bank = filled_bank(tiny_spec)
    if place == "logits":
        tiny_teacher.network.head.bias.data[1] = float("inf")
    else:
        for parameter in tiny_teacher.network.parameters():
            parameter.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="teacher ConvNet on images of Toy are NaN"):
        predict(tiny_teacher, [bank], "Toy")


@pytest.mark.parametrize("counts", [[], [0], [4, 0]])
def test_a_baseline_that_recorded_nothing_is_named(
    toy: Toy, tiny_spec: ImageSpec, counts: list[int]
) -> None:
    banks = [filled_bank(tiny_spec, count) for count in counts]
    toy.substitution_data = lambda: banks  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"Expected Toy to have recorded .*\[.*\].* `harvest`"):
        make(toy).recording()


def test_saving_and_loading_a_method_reproduces_its_next_images(
    toy: Toy, tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher
) -> None:
    toy.refresh(None)
    other = Toy(teacher=tiny_teacher, spec=tiny_spec)
    other.load_state_dict(copy.deepcopy(toy.state_dict()))
    seed_all(3)
    first, _ = toy.sample(4), toy.refresh(None)
    seed_all(3)
    again, _ = other.sample(4), other.refresh(None)
    assert torch.equal(first, again)
    assert states_equal(toy, other)


def test_networks_are_what_ranks_share(toy: Toy) -> None:
    shared = toy.networks()
    assert toy.generator in shared
    assert not any(isinstance(network, ImageBank) for network in shared)


def test_ranks_start_from_one_network_but_go_on_from_their_own(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[nn.Module] = []
    monkeypatch.setattr("src.substitution.module.broadcast_module", shared.append)
    module = SubstitutionModule(toy, rounds=4, num_images=4, record_from=0, log_every=2)
    module.on_fit_start()
    assert shared == list(toy.networks())
    module.set_extra_state({"round": 2, "epochs_done": 1, "losses": {}})
    module.on_fit_start()
    assert len(shared) == len(list(toy.networks()))


def test_a_parameter_that_no_other_rank_would_hear_of_is_refused(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.prompt = nn.Parameter(torch.zeros(3))
    options = {"rounds": 4, "num_images": 4, "record_from": 0, "log_every": 2}
    SubstitutionModule(toy, **options)  # of one rank
    monkeypatch.setattr("src.substitution.module.world_size", lambda: 2)
    with pytest.raises(UserError, match=r"of Toy to be those .*, but got prompt of its own"):
        SubstitutionModule(toy, **options)


def test_what_is_logged_is_a_mean_over_ranks(
    toy: Toy, tmp_path: Path, averaged: dict[str, bool]
) -> None:
    fit(make(toy), tmp_path)
    assert {"stage_a/confident", "stage_a/total"} <= averaged.keys()
    assert all(averaged.values())
