import csv
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from src.dataset.contract import ImageSpec
from src.dataset.loader import LabelledBatches
from src.dataset.normalisation import Normalisation
from src.network.convnet import ConvNet
from src.teacher import module as teacher_module
from src.teacher.evaluate import accuracy
from src.teacher.module import TeacherModule
from tests.toys import SGD, convnet, job, labelled


def fit(
    spec: ImageSpec,
    network: ConvNet,
    folder: Path,
    epochs: int = 3,
    precision: str = "32-true",
    **options: Any,
) -> TeacherModule:
    train = labelled(spec, 60, training=True)
    test = options.pop("test", None) or labelled(spec, 20)
    optimizer = options.pop("optimizer", SGD)
    module = TeacherModule(network, optimizer, total_steps=epochs * len(train), **options)
    job(folder, precision).fit(
        "teacher", module, epochs=epochs, state=folder / "state", batches=train, test=test
    )
    return module


def by_hand(spec: ImageSpec, network: ConvNet, train: LabelledBatches, epochs: int) -> ConvNet:
    """The same training as a plain loop: cosine schedule, SGD, smoothed cross-entropy."""
    optimizer = SGD(network.parameters())
    steps, step = epochs * len(train), 0
    network.train()
    for _ in range(epochs):
        for images, labels in train:
            rate = 0.1 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item()) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels, label_smoothing=0.1).backward()
            optimizer.step()
            step += 1
    return network


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_learns_what_can_be_learned(tiny_spec: ImageSpec, tmp_path: Path, schedule: Any) -> None:
    module = fit(tiny_spec, convnet(tiny_spec), tmp_path, epochs=12, schedule=schedule)
    assert module.acc1 > 80
    assert module.epochs_done == 12
    assert module.step == module.total_steps


def test_equals_a_loop_by_hand(tiny_spec: ImageSpec, tmp_path: Path) -> None:
    trained, plain = convnet(tiny_spec), convnet(tiny_spec)
    plain.load_state_dict(trained.state_dict())
    torch.manual_seed(1)
    fit(tiny_spec, trained, tmp_path, label_smoothing=0.1)
    torch.manual_seed(1)
    by_hand(tiny_spec, plain, labelled(tiny_spec, 60, training=True), 3)
    torch.testing.assert_close(trained.state_dict(), plain.state_dict())


def test_gradients_are_not_narrowed_by_autocast(
    tiny_spec: ImageSpec, tmp_path: Path, backward_passes: list[bool]
) -> None:
    module = fit(tiny_spec, convnet(tiny_spec), tmp_path, 1, "bf16-mixed")
    assert backward_passes == [False] * module.total_steps


def test_the_accuracy_is_that_of_the_final_weights(tiny_spec: ImageSpec, tmp_path: Path) -> None:
    test = labelled(tiny_spec, 20)
    module = fit(tiny_spec, convnet(tiny_spec), tmp_path, test=test)
    assert module.acc1 == pytest.approx(accuracy(module.network, test))


def test_the_measured_statistics_are_those_of_rank_0(
    tiny_spec: ImageSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are saved: each rank has statistics of its own while it trains."""
    shared: list[int] = []
    monkeypatch.setattr(
        teacher_module, "broadcast_buffers", lambda trained: shared.append(trained.epochs_done)
    )
    fit(tiny_spec, convnet(tiny_spec), tmp_path, epochs=2)
    assert shared == [0, 1, 2]  # before each measurement, and at the end


def test_an_epoch_and_its_accuracy_are_one_row(tiny_spec: ImageSpec, tmp_path: Path) -> None:
    module = fit(tiny_spec, convnet(tiny_spec), tmp_path, epochs=2)
    with (tmp_path / "metrics" / "teacher" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["teacher/epoch"]) for row in rows] == [1, 2]
    assert float(rows[-1]["teacher/acc"]) == pytest.approx(module.acc1, abs=1e-4)


@pytest.mark.parametrize(("schedule", "last"), [("cosine", 0.01), ("one_cycle", 1e-4)])
def test_the_rate_ends_low(
    tiny_spec: ImageSpec, tmp_path: Path, schedule: Any, last: float
) -> None:
    module = fit(tiny_spec, convnet(tiny_spec), tmp_path, schedule=schedule)
    rate = module.scheduler.optimizer.param_groups[0]["lr"]
    assert 0 <= rate < last


def test_one_cycle_peaks_at_the_rate_of_the_optimiser(
    tiny_spec: ImageSpec, tmp_path: Path
) -> None:
    peak: Any = partial(torch.optim.SGD, lr=0.3, momentum=0.9)
    module = TeacherModule(convnet(tiny_spec), peak, total_steps=10, schedule="one_cycle")
    optimizer = module.configure_optimizers()
    rates = []
    for _ in range(9):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        module.scheduler.step()
    assert max(rates) == pytest.approx(0.3)
    assert rates[0] < 0.1


def rates(spec: ImageSpec, schedule: Any, steps: int) -> list[float]:
    """Of every step of a fit."""
    module = TeacherModule(convnet(spec), SGD, total_steps=steps, schedule=schedule)
    optimizer, found = module.configure_optimizers(), []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            module.scheduler.step()
    return found


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_cycle_too_short_for_its_warm_up_is_a_cosine(tiny_spec: ImageSpec, steps: int) -> None:
    cycle, cosine = (rates(tiny_spec, schedule, steps) for schedule in ("one_cycle", "cosine"))
    assert max(cycle) > 0.08  # of 0.1; a cycle of one step has 4e-7
    assert (cycle == cosine) == (steps < 4)


def test_a_loss_that_is_not_finite_stops_the_fit(tiny_spec: ImageSpec, tmp_path: Path) -> None:
    diverging = partial(torch.optim.SGD, lr=1e30)
    with pytest.raises(FloatingPointError, match="'cross_entropy' is not finite at teacher step"):
        fit(tiny_spec, convnet(tiny_spec), tmp_path, optimizer=diverging)
    assert not list((tmp_path / "state").glob("*"))


def test_what_the_last_step_ruined_is_named_and_never_saved(
    tiny_spec: ImageSpec, tmp_path: Path
) -> None:
    diverging: Any = partial(torch.optim.SGD, lr=float("inf"))
    module = TeacherModule(convnet(tiny_spec), diverging, total_steps=1)
    one_batch, test = labelled(tiny_spec, 5, training=True), labelled(tiny_spec)
    state = tmp_path / "state"
    with pytest.raises(FloatingPointError, match=r"^'\S+' of the teacher holds NaN"):
        job(tmp_path).fit("teacher", module, epochs=1, state=state, batches=one_batch, test=test)
    assert not list(state.glob("*"))
    assert module.acc1 == 0


def test_weights_are_looked_at_without_a_validation(
    tiny_spec: ImageSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = TeacherModule(convnet(tiny_spec), SGD, total_steps=1)
    monkeypatch.setattr(module, "log_dict", lambda *_, **__: None)
    module.on_train_epoch_end()
    module.network.head.bias.data[1] = float("nan")
    with pytest.raises(FloatingPointError, match=r"'fc\.bias' of the teacher"):
        module.on_train_epoch_end()
    assert module.epochs_done == 1


def test_predictions_that_are_not_finite_have_no_accuracy(tiny_spec: ImageSpec) -> None:
    module = TeacherModule(convnet(tiny_spec), SGD, total_steps=1).eval()
    for parameter in module.network.head.parameters():
        parameter.data.fill_(3e38)  # finite, but their sums are not
    module.validation_step(next(iter(labelled(tiny_spec))), 0)
    with pytest.raises(FloatingPointError, match=r"no accuracy; .*teacher\.fit\.optimizer\.lr"):
        module.on_validation_epoch_end()


def test_the_accuracy_is_that_of_float32_logits_under_autocast(tiny_spec: ImageSpec) -> None:
    module = TeacherModule(convnet(tiny_spec), SGD, total_steps=1).eval()
    seen: list[torch.Tensor] = []
    accuracy: Any = module.accuracy
    accuracy.update = lambda logits, labels: seen.append(logits)
    with torch.autocast("cpu", torch.bfloat16):
        module.validation_step(next(iter(labelled(tiny_spec))), 0)
    assert seen[0].dtype == torch.float32


def test_sees_normalised_images(tiny_spec: ImageSpec) -> None:
    batches = labelled(tiny_spec, 10)
    images = torch.cat([images for images, _ in batches])
    expected = Normalisation.of(tiny_spec).from_uint8(batches.split.images)
    assert torch.equal(images, expected)


def test_what_is_logged_is_a_mean_over_ranks(
    tiny_spec: ImageSpec, tmp_path: Path, averaged: dict[str, bool]
) -> None:
    fit(tiny_spec, convnet(tiny_spec), tmp_path, epochs=1)
    assert {"teacher/cross_entropy", "teacher/acc"} <= averaged.keys()
    assert all(averaged.values())
