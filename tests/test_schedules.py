"""Every budget is a whole schedule: learning rates have come down where training ends."""

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from src.common.errors import UserError
from src.config.check import check
from src.config.lengths import companion_steps, mention_other_steps, refuse_other_rounds
from src.config.node import build_partial, target_of
from src.config.schema import Distill, RunConfig
from src.network.convnet import ConvNet
from src.teacher.module import TeacherModule
from tests.compose import checked, plain
from tests.test_configs import every

ANNEALED = 0.01
# The share of the first rate that the last step may have, where it is more. No published schedule
# is among them: DAFL's and DFND's milestones end at 0.01, Fast's cosine at 0.001.
EXCEPTIONS = {
    "smoke": 0.25,  # six steps have no room for less; the step after them would have none
}
BATCHES = 20  # of a teacher's epoch; how many there are depends on the images


def share_left(distill: Distill, steps: int) -> float:
    """The student's rate at the last of its ``steps``, relative to that of the first."""
    optimizer = build_partial(distill.optimizer)([nn.Parameter(torch.ones(1))])
    scheduler = build_partial(distill.scheduler)(optimizer)
    optimizer.step()
    for _ in range((steps - 1) // (distill.scheduler_steps or distill.steps_per_epoch)):
        scheduler.step()
    return rate(optimizer) / scheduler.base_lrs[0]


def rate(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])


def is_generic(config: RunConfig) -> bool:
    """Whether its lengths are those of no recipe, which know no method."""
    return config.budget == "paper" and config.substitution.published_mode is None


def lengths(config: RunConfig) -> list[int]:
    """Steps of the student, and of the one alongside stage (a) where the method reads one.

    Left out: six steps of a test, and generic lengths.
    """
    distill, stage_a = config.distill, config.substitution
    found = [distill.epochs * distill.steps_per_epoch]
    reads_student = target_of("baseline", config.baseline).reads_student  # type: ignore[attr-defined]
    if reads_student and not is_generic(config) and config.budget != "smoke":
        found.append((stage_a.rounds - stage_a.warmup_rounds) * distill.steps_per_round)
    return found


@every
def test_the_student_is_annealed(baseline: str, dataset: str, budget: str) -> None:
    config = checked(baseline, dataset, budget)
    most = EXCEPTIONS.get(budget, ANNEALED) * (1 + 1e-6)
    assert all(share_left(config.distill, steps) <= most for steps in lengths(config))


@every
def test_a_schedule_of_the_baseline_is_as_long_as_an_online_run(
    baseline: str, dataset: str, budget: str
) -> None:
    config = checked(baseline, dataset, budget)
    substitution = config.substitution.model_copy(update={"mode": "online"})
    online = config.model_copy(update={"substitution": substitution})
    if is_generic(config) and "total_rounds" in config.baseline:
        with pytest.raises(UserError, match=r"give substitution\.rounds=16000"):
            refuse_other_rounds(online)
    else:
        refuse_other_rounds(online)


@every
def test_both_students_of_a_budget_are_equally_long(
    baseline: str, dataset: str, budget: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = checked(baseline, dataset, budget)
    caplog.clear()  # the first to ask for a configuration hears its own warnings
    mention_other_steps(config)
    differ = is_generic(config) and companion_steps(config) is not None
    assert len(caplog.messages) == differ


@pytest.mark.parametrize("change", [{"epochs": 1}, {"epochs": 35}, {"steps_per_epoch": 600}])
def test_a_short_schedule_is_whole_at_any_length(change: dict[str, int]) -> None:
    overrides = [f"distill.{key}={value}" for key, value in change.items()]
    distill = check(plain("baseline=dfnd", "dataset=cifar10", "budget=laptop", *overrides)).distill
    assert share_left(distill, distill.epochs * distill.steps_per_epoch) <= ANNEALED


@every
def test_the_teacher_is_annealed(baseline: str, dataset: str, budget: str) -> None:
    fit = checked(baseline, dataset, budget).teacher.fit
    total = BATCHES * fit.epochs
    module = TeacherModule(
        ConvNet([1], num_classes=2),
        build_partial(fit.optimizer),
        total_steps=total,
        schedule=fit.schedule,
    )
    optimizer = module.configure_optimizers()
    first = rate(optimizer)
    optimizer.step()
    for _ in range(total - 1):
        module.scheduler.step()
    assert rate(optimizer) <= ANNEALED * first


SHORT = ("baseline=fast", "budget=smoke", "distill.epochs=5")  # 15 steps after a round of warm-up


def heard_of(caplog: pytest.LogCaptureFixture, *overrides: str) -> list[str]:
    caplog.clear()
    check(plain(*SHORT, *overrides))
    return [message for message in caplog.messages if "alongside stage (a)" in message]


@pytest.mark.parametrize(
    ("every", "rounds", "cure"),
    [
        (1, 9, ["substitution.rounds=16"]),
        (2, 9, ["distill.steps_per_round=1", "substitution.rounds=16"]),
        (4, 9, ["distill.steps_per_round=3", "substitution.rounds=6"]),
        (5, 9, ["substitution.rounds=4"]),
        (100, 9, ["distill.steps_per_round=15", "substitution.rounds=2"]),
    ],
)
def test_lengths_that_are_offered_for_both_students_are_equal(
    every: int, rounds: int, cure: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    given = [f"distill.steps_per_round={every}", f"substitution.rounds={rounds}"]
    (message,) = heard_of(caplog, *given)
    offered = message.partition("for equal lengths give ")[2]
    assert " ".join(cure) in offered
    assert heard_of(caplog, *given, *cure) == []
