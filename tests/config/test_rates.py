from typing import Any

import pytest
import torch

from src.common.errors import UserError
from src.config.rates import try_scheduler
from src.config.trial import try_optimizer

SGD = {"_target_": "torch.optim.SGD", "lr": 0.1}


def schedule(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"torch.optim.lr_scheduler.{name}", **arguments}


def schedule_refusal(node: dict[str, Any], steps: int = 10) -> str:
    with pytest.raises(UserError) as caught:
        try_scheduler("x", node, lambda: try_optimizer("y", SGD), steps, " (so it is)")
    return str(caught.value)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (schedule("CosineAnnealingLR", T_max=0, eta_min=0.0), "T_max=0: expected T_max >= 1 (so"),
        (schedule("StepLR", gamma=0.5, step_size=0), "step_size=0: expected step_size >= 1 (so"),
        (
            schedule("OneCycleLR", max_lr=0.1, total_steps=10, pct_start=0.1),
            "with pct_start=0.1: ZeroDivisionError",
        ),
        (schedule("CosineAnnealingLR", T_max=9, eta_min=-1.0), "with eta_min=-1.0: the learning"),
    ],
)
def test_a_schedule_s_value_at_fault_is_named(node: dict[str, Any], expected: str) -> None:
    assert expected in schedule_refusal(node)


def test_a_schedule_is_tried_on_an_optimiser_of_its_own_each_time() -> None:
    made = []

    def optimizer() -> torch.optim.Optimizer:
        made.append(try_optimizer("y", SGD))
        return made[-1]

    try_scheduler("x", schedule("StepLR", step_size=1), optimizer, 3)
    assert len(made) == 1
    with pytest.raises(UserError):
        try_scheduler("x", schedule("StepLR", step_size=0, gamma=0.5), optimizer, 3)
    assert len({id(each) for each in made}) == len(made) > 2


def test_the_last_of_many_steps_is_tried_without_the_others() -> None:
    node = schedule("OneCycleLR", max_lr=0.1, total_steps=10**6)
    try_scheduler("x", node, lambda: try_optimizer("y", SGD), 10**6 - 1)
    assert "Tried to step" in schedule_refusal(node, 10**6 + 1)


ONE_CYCLE = schedule("OneCycleLR", max_lr=0.1, total_steps=40)
CYCLE = schedule("CyclicLR", base_lr=0.01, max_lr=0.1)
COSINE = schedule("CosineAnnealingLR", T_max=10)


def try_scaled(node: dict[str, Any], scale: float, steps: int = 10) -> None:
    momentum = SGD | {"momentum": 0.9}
    try_scheduler("x", node, lambda: try_optimizer("y", momentum, [1.0, scale]), steps)


@pytest.mark.parametrize("scale", [0.0, 0.3, 10.0])
@pytest.mark.parametrize(
    ("node", "cure", "other"),
    [
        (ONE_CYCLE, {"max_lr": 0.1}, r"the schedule max_lr=\[0\.1,\S+\] \(where no"),
        (
            ONE_CYCLE | {"max_lr": [0.1, 0.5]},
            {"max_lr": 0.1},
            r"the schedule max_lr=\[0\.1,\S+\] \(where no",
        ),
        (
            CYCLE,
            {"base_lr": 0.01, "max_lr": 0.1},
            r"the schedule base_lr=\[0\.01,\S+\] max_lr=\[0\.1,\S+\] \(where no",
        ),
        (COSINE | {"eta_min": 2e-4}, {}, r"the schedule eta_min=0\.0$"),
    ],
    ids=["one_cycle", "pair", "cyclic", "eta_min"],
)
def test_a_schedule_must_keep_the_scale_of_the_adjustment_s_rate(
    node: dict[str, Any], cure: dict[str, float], other: str, scale: float
) -> None:
    expected = rf"at kdci\.lr_scale={scale:g} times .*; give kdci\.lr_scale=1, or {other}"
    with pytest.raises(UserError, match=expected):
        try_scaled(node, scale)
    try_scaled(node, 1.0)
    pairs = {key: [rate, rate * scale] for key, rate in cure.items()} or {"eta_min": 0.0}
    try_scaled(node | pairs, scale)


@pytest.mark.parametrize("scale", [0.0, 0.3, 10.0])
@pytest.mark.parametrize(
    "node",
    [
        COSINE,
        schedule("CosineAnnealingLR", T_max=10**6),
        schedule("CosineAnnealingWarmRestarts", T_0=2),
        schedule("StepLR", step_size=2),
        schedule("MultiStepLR", milestones=[2, 4]),
        schedule("ExponentialLR", gamma=0.9),
        schedule("LinearLR"),
        schedule("PolynomialLR", power=0.5),
    ],
    ids=lambda node: node["_target_"].rpartition(".")[2],
)
@pytest.mark.parametrize("steps", [10, 1000])
def test_a_schedule_that_scales_what_the_groups_came_with_is_let_pass(
    node: dict[str, Any], scale: float, steps: int
) -> None:
    try_scaled(node, scale, steps)


def test_the_first_of_many_steps_tell_of_a_scale_that_is_lost_slowly() -> None:
    with pytest.raises(UserError, match=r"lr_scale=10 times"):
        try_scaled(schedule("CosineAnnealingLR", T_max=200_000, eta_min=1e-4), 10, 200_000)


def test_rates_after_the_last_student_step_do_not_count() -> None:
    node = schedule("CosineAnnealingLR", T_max=1, eta_min=1e-4)
    try_scaled(node, 10.0, steps=1)
    with pytest.raises(UserError, match=r"but it gives 0\.0001 and 0\.0001"):
        try_scaled(node, 10.0, steps=2)
