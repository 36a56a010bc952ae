from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from src.dataset.contract import ImageSpec
from src.objective.distillation import kl_divergence
from src.objective.noise import NoisyDistillationObjective
from src.student.companion import CompanionStudent
from src.teacher.frozen import FrozenTeacher
from tests.toys import SGD, Toy, convnet

EXPONENTIAL: Any = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)


@pytest.fixture
def toy(tiny_spec: ImageSpec, tiny_teacher: FrozenTeacher) -> Toy:
    return Toy(teacher=tiny_teacher, spec=tiny_spec)


def make(spec: ImageSpec, objective: nn.Module, **options: Any) -> CompanionStudent:
    settings = {"scheduler": EXPONENTIAL, "scheduler_steps": 4, "steps_per_round": 3}
    return CompanionStudent(
        convnet(spec), objective, optimizer=SGD, batch_size=6, **(settings | options)
    )


def test_is_the_published_student_loop(tiny_spec: ImageSpec, toy: Toy) -> None:
    companion = make(tiny_spec, toy.objective(), scheduler=None)
    plain = convnet(tiny_spec)
    plain.load_state_dict(companion.network.state_dict())
    torch.manual_seed(1)
    terms = [companion.learn(toy)["distillation"] for _ in range(2)]
    torch.manual_seed(1)
    optimizer, losses = SGD(plain.parameters()), []
    for _ in range(6):
        images = toy.sample(6)
        loss = kl_divergence(plain(images), toy.teacher(images).logits, temperature=2.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(companion.network.state_dict()[name], tensor), name
    torch.testing.assert_close(torch.stack(terms), torch.stack(losses).view(2, 3).mean(1))


def test_waits_while_the_method_warms_up(tiny_spec: ImageSpec, toy: Toy) -> None:
    companion = make(tiny_spec, toy.objective(), first_round=2)
    before = torch.get_rng_state()
    assert [companion.learn(toy), companion.learn(toy)] == [{}, {}]
    assert torch.equal(torch.get_rng_state(), before)
    assert companion.learn(toy).keys() == {"distillation"}
    assert companion.student_step == 3


def test_the_schedule_counts_student_steps(tiny_spec: ImageSpec, toy: Toy) -> None:
    companion = make(tiny_spec, toy.objective())
    rates = []
    for _ in range(4):
        companion.learn(toy)
        rates.append(companion.get_extra_state()["optimizers"][0]["param_groups"][0]["lr"])
    assert rates == pytest.approx([0.1, 0.05, 0.025, 0.0125])


def test_learns_in_train_mode_after_an_evaluation(tiny_spec: ImageSpec, toy: Toy) -> None:
    companion = make(tiny_spec, toy.objective())
    companion.network.eval()
    before = [buffer.clone() for buffer in companion.network.buffers()]
    companion.learn(toy)
    assert not any(map(torch.equal, companion.network.buffers(), before))


def test_trains_an_objective_with_parameters(tiny_spec: ImageSpec, toy: Toy) -> None:
    objective = NoisyDistillationObjective(tiny_spec.num_classes, 0.9)
    before = [p.clone() for p in objective.parameters()]
    companion = make(tiny_spec, objective, objective_lr=1e-2)
    companion.learn(toy)
    assert not any(map(torch.equal, objective.parameters(), before))
    assert len(companion.get_extra_state()["optimizers"]) == 2


@pytest.mark.parametrize("options", [{}, {"objective_lr": 0.02}])
def test_an_objective_with_parameters_has_a_learning_rate_of_its_own(
    tiny_spec: ImageSpec, toy: Toy, options: dict[str, float]
) -> None:
    objective = NoisyDistillationObjective(tiny_spec.num_classes, 0.9)
    (before,) = (p.detach().clone() for p in objective.parameters())
    make(tiny_spec, objective, steps_per_round=1, **options).learn(toy)
    (after,) = objective.parameters()
    moved = (after.detach() - before).abs()
    # The first step of Adam is the rate, whatever the gradient; that of rare classes is tiny.
    assert float(moved.max()) == pytest.approx(options.get("objective_lr", 1e-3), rel=1e-3)


def test_leaves_the_method_and_its_teacher_without_gradients(
    tiny_spec: ImageSpec, toy: Toy
) -> None:
    make(tiny_spec, toy.objective()).learn(toy)
    assert all(p.grad is None for p in toy.parameters())
    assert all(p.grad is None for p in toy.teacher.parameters())


def test_gradients_are_those_of_all_ranks(
    tiny_spec: ImageSpec, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    averaged: list[Any] = []
    monkeypatch.setattr(
        "src.student.companion.average_gradients", lambda own: averaged.extend(own)
    )
    objective = NoisyDistillationObjective(tiny_spec.num_classes, 0.9)
    companion = make(tiny_spec, objective, steps_per_round=1)
    companion.learn(toy)
    assert list(map(id, averaged)) == list(map(id, companion.parameters()))


def test_what_is_counted_survives_saving(tiny_spec: ImageSpec, toy: Toy) -> None:
    first, second = (make(tiny_spec, toy.objective(), first_round=1) for _ in range(2))
    for _ in range(3):
        first.learn(toy)
    second.load_state_dict(first.state_dict())
    saved, loaded = first.get_extra_state(), second.get_extra_state()
    assert (loaded["round"], loaded["student_step"]) == (3, 6)
    assert loaded["scheduler"] == saved["scheduler"]
    rates = [state["optimizers"][0]["param_groups"][0]["lr"] for state in (saved, loaded)]
    assert rates[0] == rates[1] == pytest.approx(0.05)


def test_the_loss_of_a_round_holds_no_graph(tiny_spec: ImageSpec, toy: Toy) -> None:
    assert not make(tiny_spec, toy.objective()).learn(toy)["distillation"].requires_grad
