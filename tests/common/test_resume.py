from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from src.common import resume
from src.common.augment import Augmentation
from src.common.errors import UserError
from src.common.resume import ResumeCallback
from src.common.seeding import seed_all
from src.dataset.contract import ImageSpec
from src.objective.distillation import DistillationObjective
from src.objective.noise import NoisyDistillationObjective
from src.pipeline import job as pipeline_job
from src.student.companion import CompanionStudent
from src.substitution.batches import OnlineBatches, OnlineRounds, ReplayBatches
from src.substitution.image_bank import files_of
from src.substitution.module import SubstitutionModule
from src.teacher.frozen import FrozenTeacher
from src.teacher.module import TeacherModule
from tests.toys import (
    SGD,
    Storing,
    Toy,
    convnet,
    dictionary,
    filled_bank,
    job,
    kdci_student,
    labelled,
    states_equal,
    student,
)

EPOCHS = 4
# Unlike one that multiplies the rate, it has a place of its own to go on from.
COSINE: Any = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=6)


@dataclass
class Fit:
    """A module and what its fit is given; ``others`` are compared as well."""

    stage: str
    module: LightningModule
    options: dict[str, Any] = field(default_factory=dict)
    others: list[torch.nn.Module] = field(default_factory=list)

    def run(self, folder: Path) -> set[str]:
        """Four epochs, or what is left of them; gives what was taken up again."""
        this = job(folder)
        this.fit(self.stage, self.module, epochs=EPOCHS, state=folder / "state", **self.options)
        return this.resumed


class Fixed:
    """What an interrupted program finds unchanged when it is started again."""

    def __init__(self, spec: ImageSpec, teacher: FrozenTeacher) -> None:
        self.spec, self.teacher = spec, teacher
        self.bank = filled_bank(spec, augmentation=Augmentation(1, 0.5))
        self.dictionary = dictionary()

    def test(self) -> Any:
        """The same test images every time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return labelled(self.spec)

    def replayed(self, module: LightningModule) -> Fit:
        batches = ReplayBatches([self.bank], batch_size=8, steps=3, seed=0)
        return Fit("stage_b", module, {"batches": batches, "test": self.test()})


def vanilla(fixed: Fixed) -> Fit:
    return fixed.replayed(student(fixed.spec, fixed.teacher, scheduler=COSINE))


def stepwise_schedule(fixed: Fixed) -> Fit:
    options: Any = {"scheduler": COSINE, "scheduler_steps": 2}
    return fixed.replayed(student(fixed.spec, fixed.teacher, **options))


def compensated(fixed: Fixed) -> Fit:
    module = kdci_student(fixed.spec, fixed.teacher, loaded=fixed.dictionary, fusion="linear")
    return fixed.replayed(module)


def noisy(fixed: Fixed) -> Fit:
    objective = NoisyDistillationObjective(fixed.spec.num_classes, 0.9)
    return fixed.replayed(student(fixed.spec, fixed.teacher, objective=objective))


def online(fixed: Fixed, kind: type[Toy] = Toy) -> Fit:
    module = student(fixed.spec, fixed.teacher)
    toy = kind(teacher=fixed.teacher, spec=fixed.spec)
    options = {
        "batches": OnlineBatches(toy, batch_size=8, steps=3),
        "callbacks": [OnlineRounds(toy, steps_per_round=2)],
        "test": fixed.test(),
        "files": files_of(toy),
        "outside": {"baseline": toy},
    }
    return Fit("stage_b", module, options, [toy])


def online_with_a_store(fixed: Fixed) -> Fit:
    return online(fixed, Storing)


def stage_a(fixed: Fixed, companion: CompanionStudent | None = None) -> Fit:
    toy = Toy(teacher=fixed.teacher, spec=fixed.spec)
    module = SubstitutionModule(
        toy, rounds=11, num_images=60, record_from=0.2, log_every=3, companion=companion
    )
    return Fit("stage_a", module, {"files": files_of(toy)}, [toy])


def stage_a_with_a_student(fixed: Fixed) -> Fit:
    companion = CompanionStudent(
        convnet(fixed.spec),
        DistillationObjective(2.0),
        optimizer=SGD,
        scheduler=COSINE,
        scheduler_steps=3,
        steps_per_round=2,
        batch_size=6,
        first_round=3,
    )
    return stage_a(fixed, companion)


def teacher(fixed: Fixed) -> Fit:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        train = labelled(fixed.spec, 20, training=True)
    module = TeacherModule(
        convnet(fixed.spec), SGD, total_steps=EPOCHS * len(train), schedule="one_cycle"
    )
    return Fit("teacher", module, {"batches": train, "test": fixed.test()})


FITS = [
    vanilla,
    stepwise_schedule,
    compensated,
    noisy,
    online,
    online_with_a_store,
    stage_a,
    stage_a_with_a_student,
    teacher,
]


class PowerCut(Exception):  # noqa: N818 - it is no error of ours
    """The machine stops."""


def interrupt_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every fit stop right after it has saved the state of an epoch."""

    class Interrupting(ResumeCallback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            super().on_train_epoch_end(trainer, pl_module)
            if pl_module.epochs_done == epoch:
                raise PowerCut

    monkeypatch.setattr(pipeline_job, "ResumeCallback", Interrupting)


@pytest.fixture
def fixed(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> Fixed:
    return Fixed(tiny_spec, tiny_teacher)


def begin(make: Any, fixed: Fixed, seed: int = 0) -> Fit:
    seed_all(seed)
    fit: Fit = make(fixed)
    seed_all(seed + 1)
    return fit


@pytest.mark.parametrize("make", FITS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("after", [2, EPOCHS])
def test_an_interrupted_fit_ends_like_one_that_was_not(
    make: Any, after: int, fixed: Fixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = begin(make, fixed)
    straight.run(tmp_path / "straight")

    with monkeypatch.context() as patch:
        interrupt_after(after, patch)
        with pytest.raises(PowerCut):
            begin(make, fixed).run(tmp_path / "cut")
    resumed = begin(make, fixed, seed=50)  # whatever is not in the state would differ
    resumed.run(tmp_path / "cut")

    assert states_equal(resumed.module, straight.module)
    for ours, theirs in zip(resumed.others, straight.others, strict=True):
        assert states_equal(ours, theirs)
    for ours, theirs in zip(*map(_stores, (resumed, straight)), strict=True):
        assert torch.equal(ours.rows, theirs.rows)
    for name in ("epochs_done", "acc1", "student_step", "step", "round", "losses"):
        assert getattr(resumed.module, name, None) == getattr(straight.module, name, None), name


def _stores(fit: Fit) -> Any:
    return fit.options.get("files", {}).values()


def test_the_states_hold_data_only_and_old_ones_go(fixed: Fixed, tmp_path: Path) -> None:
    begin(online, fixed).run(tmp_path)
    names = {path.name for path in (tmp_path / "state").iterdir()}
    assert names == {f"epoch{EPOCHS}_rank0.{end}" for end in ("pt", "json")} | {"bank0_rank0.bin"}
    state = torch.load(tmp_path / "state" / f"epoch{EPOCHS}_rank0.pt", weights_only=True)
    assert state.keys() == {"module", "outside", "optimizers", "rng"}


@pytest.mark.parametrize(
    ("world_size", "files", "epoch"),
    [
        (1, [], 0),
        (1, ["epoch2_rank0.json", "epoch10_rank0.json"], 10),
        (1, ["epoch3_rank0.json", "epoch4_rank1.json", "epoch5_rank0.pt"], 3),
        (1, [".9-0a1b2c3d-epoch5_rank0.json", "epoch6_rank0.json.tmp", "epochX_rank0.json"], 0),
        (2, ["epoch3_rank0.json", "epoch3_rank1.json", "epoch4_rank0.json"], 3),
        (2, ["epoch4_rank1.json"], 0),
    ],
)
def test_a_state_counts_when_every_rank_has_saved_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    world_size: int,
    files: list[str],
    epoch: int,
) -> None:
    monkeypatch.setattr(resume, "world_size", lambda: world_size)
    monkeypatch.setattr(ResumeCallback, "_damage", lambda *_: None)
    for name in files:
        (tmp_path / name).touch()
    assert ResumeCallback(tmp_path).epochs_done() == epoch


def test_a_folder_that_is_not_there_is_a_fresh_start(tmp_path: Path) -> None:
    assert ResumeCallback(tmp_path / "nowhere").epochs_done() == 0


def cut_after_two(make: Any, fixed: Fixed, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(PowerCut):
            begin(make, fixed).run(folder)


def test_a_stage_that_is_taken_up_again_is_marked(
    fixed: Fixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert begin(vanilla, fixed).run(tmp_path / "straight") == set()
    cut_after_two(vanilla, fixed, tmp_path / "cut", monkeypatch)
    assert begin(vanilla, fixed).run(tmp_path / "cut") == {"stage_b"}


DAMAGES: dict[str, Any] = {
    "missing": None,
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-20],
    "flipped early": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "flipped": lambda content: content[:99] + bytes([content[99] ^ 64]) + content[100:],
    "flipped late": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "foreign": lambda content: b"P" * len(content),
}


@pytest.mark.parametrize("name", ["epoch2_rank0.pt", "epoch2_rank0.json", "bank0_rank0.bin"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_starts_the_fit_again_and_says_so(
    fixed: Fixed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: str,
) -> None:
    straight = begin(stage_a, fixed)
    straight.run(tmp_path / "straight")
    cut_after_two(stage_a, fixed, tmp_path / "cut", monkeypatch)
    path = tmp_path / "cut" / "state" / name
    if DAMAGES[damage] is None:
        path.unlink()
    else:
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
    again = begin(stage_a, fixed)
    again.run(tmp_path / "cut")
    if (damage, name) != ("missing", "epoch2_rank0.json"):  # then it was never committed
        assert "A saved state is damaged" in caplog.text
        assert name in caplog.text
    assert states_equal(again.module, straight.module)
    for ours, theirs in zip(*map(_stores, (again, straight)), strict=True):
        assert torch.equal(ours.rows, theirs.rows)


def test_damage_of_another_rank_starts_the_fit_again_with_the_dice_of_a_first_one(
    fixed: Fixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = begin(stage_a, fixed)
    straight.run(tmp_path / "straight")
    cut_after_two(stage_a, fixed, tmp_path / "cut", monkeypatch)
    monkeypatch.setattr(resume, "gather_objects", lambda own: [own, "of rank 1"])
    again = begin(stage_a, fixed)
    again.run(tmp_path / "cut")
    assert states_equal(again.module, straight.module)


def test_bytes_beyond_the_committed_ones_are_no_damage(
    fixed: Fixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut_after_two(stage_a, fixed, tmp_path, monkeypatch)
    with (tmp_path / "state" / "bank0_rank0.bin").open("ab") as file:
        file.write(b"an epoch that was not finished")
    assert ResumeCallback(tmp_path / "state").epochs_done() == 2
    assert caplog.text == ""


def test_a_state_that_does_not_fit_is_refused_with_the_way_out(
    fixed: Fixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_after_two(vanilla, fixed, tmp_path, monkeypatch)
    with pytest.raises(UserError, match=r"Cannot resume from .*Delete the folder .*state'"):
        begin(compensated, fixed).run(tmp_path)
