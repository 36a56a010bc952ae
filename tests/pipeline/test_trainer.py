import os
import signal
from copy import deepcopy
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from src.common.errors import UserError
from src.common.signals import STOPPING
from src.dataset.contract import ImageSpec
from src.objective.distillation import StudentOutput
from src.pipeline import run, trainer
from src.pipeline.job import Job
from src.pipeline.stage_b import _leaves_out
from src.substitution.batches import ReplayBatches
from src.substitution.module import SubstitutionModule
from src.teacher.frozen import FrozenTeacher
from src.teacher.module import TeacherModule
from tests.toys import SGD, Toy, convnet, filled_bank, job, labelled, student


def begun(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """The configuration of a run that begins and does nothing."""
    monkeypatch.setattr(run, "identify", lambda *_: SimpleNamespace(run="run"))
    monkeypatch.setattr(run, "plain", lambda _: {})
    found = {"accelerator": "cpu", "devices": 1, "precision": "32-true", "deterministic": False}
    return SimpleNamespace(trainer=SimpleNamespace(**found | options))


@pytest.mark.parametrize("is_wanted", [True, False])
def test_what_is_deterministic_is_so_before_the_first_trainer(
    is_wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # to be put back as it was
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    torch.use_deterministic_algorithms(not is_wanted)
    try:
        config = begun(monkeypatch, deterministic=is_wanted)
        with run._begun(config, tmp_path / "run", None):
            assert torch.are_deterministic_algorithms_enabled() == is_wanted
            assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == is_wanted
    finally:
        torch.use_deterministic_algorithms(before)


def test_float32_is_float32_in_convolutions_from_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = begun(monkeypatch)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # as torch begins
    assert torch.backends.cudnn.conv.fp32_precision == "tf32"
    with run._begun(config, tmp_path / "run", None):
        assert torch.backends.cudnn.conv.fp32_precision != "tf32"
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32


class Handlers(Callback):
    """Who has the signals while a batch is trained on."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.found.append([signal.getsignal(number) for number in STOPPING])


@pytest.mark.parametrize("stage", ["teacher", "stage_a", "stage_b"])
def test_signals_stay_with_whoever_had_them(
    stage: str, tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    module: LightningModule
    options: dict[str, Any] = {}
    if stage == "stage_a":
        toy = Toy(teacher=tiny_teacher, spec=tiny_spec)
        module = SubstitutionModule(toy, rounds=2, num_images=8, record_from=0, log_every=2)
    elif stage == "teacher":
        module = TeacherModule(convnet(tiny_spec), SGD, total_steps=3, schedule="one_cycle")
        options = {"batches": labelled(tiny_spec, training=True), "test": labelled(tiny_spec)}
    else:
        module = student(tiny_spec, tiny_teacher)
        batches = ReplayBatches([filled_bank(tiny_spec)], batch_size=8, steps=2, seed=0)
        options = {"batches": batches, "test": labelled(tiny_spec)}
    before, handlers = [signal.getsignal(number) for number in STOPPING], Handlers()
    options |= {"callbacks": [handlers], "state": tmp_path / "state"}
    job(tmp_path).fit(stage, module, epochs=1, **options)
    assert handlers.found
    assert all(found == before for found in handlers.found)


class Gone:
    """A W&B run whose process was killed."""

    logged = 0

    def log(self, _: Any) -> None:
        self.logged += 1
        raise ConnectionResetError("the service is gone")


def test_a_mirror_that_dies_costs_a_warning(
    tiny_spec: ImageSpec,
    tiny_teacher: FrozenTeacher,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    batches = ReplayBatches([filled_bank(tiny_spec)], batch_size=8, steps=2, seed=0)
    mirror: Any = Gone()
    running = job(tmp_path)
    running.wandb_run = mirror
    running.fit(
        "stage_b",
        student(tiny_spec, tiny_teacher),
        epochs=2,
        batches=batches,
        test=labelled(tiny_spec),
        state=tmp_path / "state",
    )
    assert mirror.logged > 1
    assert caplog.text.count("W&B has no whole copy of this run") == 1
    (metrics,) = tmp_path.rglob("metrics.csv")
    assert len(metrics.read_text().splitlines()) > 2


class TwoHeads(nn.Module):
    """Trains one of its heads, on images that are dropped out whatever the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first, self.second = nn.BatchNorm2d(3), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.first(F.dropout(self.norm(images), 0.5).mean((2, 3)))


def ranks_of(ranks: int, folder: Path, size: int = 4) -> Job:
    """A job of some ranks, on images of some size."""
    this = job(folder)
    this.dataset = SimpleNamespace(geometry=SimpleNamespace(size=size))  # type: ignore[assignment]
    this.config.trainer = this.config.trainer.model_copy(update={"devices": ranks})
    return this


@pytest.mark.parametrize(("ranks", "expected"), [(2, True), (1, False)])
def test_several_ranks_are_told_of_parameters_that_take_no_part(
    ranks: int, expected: bool, tmp_path: Path
) -> None:
    network, this = TwoHeads(), ranks_of(ranks, tmp_path)
    before = deepcopy(network.state_dict())
    dice = torch.get_rng_state()
    assert this.leaves_out(network, network) == expected
    assert network.training
    assert all(torch.equal(before[name], now) for name, now in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), dice)
    network.second.requires_grad_(False)
    assert not this.leaves_out(network, network)


class Remembering(TwoHeads):
    """Keeps a grid once it has seen images, the last batch's size, and a count in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0
        self.register_buffer("grid", None)
        self.register_buffer("sizes", torch.zeros(3))
        self.register_buffer("count", torch.zeros(()))
        self.count_on = self.count.add_

    def forward(self, images: Tensor) -> Tensor:
        self.seen += 1
        self.grid, self.sizes = images[0], torch.zeros(len(images))
        self.count_on(1)
        return super().forward(images)

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": self.seen}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]


def test_what_a_module_remembers_of_that_look_is_forgotten(tmp_path: Path) -> None:
    network, this = Remembering(), ranks_of(2, tmp_path)
    sizes = network.sizes
    assert this.leaves_out(network, network)
    assert (network.grid, network.seen) == (None, 0)
    assert network.sizes is sizes
    assert network.count == 0


class Graphed(Remembering):
    """Its state is computed from its weights."""

    def get_extra_state(self) -> Any:
        return {"seen": self.seen, "norm": self.first.weight * 2}


class Telling(TwoHeads):
    """Tells of a state that it takes from nobody."""

    def get_extra_state(self) -> Any:
        return {"lock": Lock()}


class Locked(Remembering):
    """Its state cannot be copied."""

    def get_extra_state(self) -> Any:
        return {"seen": self.seen, "lock": Lock()}


@pytest.mark.parametrize("kind", [Graphed, Telling])
def test_a_state_is_given_back_where_it_can_be(kind: type[nn.Module], tmp_path: Path) -> None:
    network, this = kind(), ranks_of(2, tmp_path)
    assert this.leaves_out(network, network)
    assert getattr(network, "seen", 0) == 0


def test_a_state_that_cannot_be_copied_is_one_line(tmp_path: Path) -> None:
    network, this = Locked(), ranks_of(2, tmp_path)
    expected = (
        r"get_extra_state of Locked gives \(TypeError: cannot pickle '_thread.lock' object\)"
    )
    with pytest.raises(UserError, match=expected):
        this.leaves_out(network, network)


def test_they_are_looked_for_where_the_fit_will_be(tmp_path: Path) -> None:
    """An adjustment is made in the host's memory, and its student on the device."""
    network, this = TwoHeads(), ranks_of(2, tmp_path)
    this.device = torch.device("meta")
    assert this.leaves_out(network, network)
    assert network.first.weight.device.type == "meta"


class Partial(nn.Module):
    """A loss of training, with a centre that moves, and a parameter that it leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("centre", torch.zeros(1))

    def forward(self, output: StudentOutput, teacher_logits: Tensor) -> Tensor:
        if not self.training:
            return torch.zeros(())
        self.centre += 1
        return (output.plain_logits - teacher_logits).square().mean()


def test_what_counts_is_the_loss_not_the_logits(
    tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher, tmp_path: Path
) -> None:
    this = ranks_of(2, tmp_path, tiny_spec.image_size)
    module = student(tiny_spec, tiny_teacher)
    assert not _leaves_out(this, module)
    module.objective = Partial()
    assert _leaves_out(this, module)
    assert module.objective.centre == 0
    module.objective.scale.requires_grad_(False)
    assert not _leaves_out(this, module)


@pytest.mark.parametrize("leaves_out", [True, False])
def test_ddp_looks_for_them_only_where_there_are_any(leaves_out: bool, tmp_path: Path) -> None:
    options = job(tmp_path).config.trainer.model_copy(update={"devices": 2})
    assert trainer._strategy("stage_b", options, leaves_out)._ddp_kwargs == {
        "forward_sync_buffers": False,
        "find_unused_parameters": leaves_out,
    }
