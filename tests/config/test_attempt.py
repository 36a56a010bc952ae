from typing import Any

import pytest

from src.common.errors import UserError
from src.config.rates import try_scheduler
from src.config.trial import check_node, try_optimizer

SGD = {"_target_": "torch.optim.SGD", "lr": 0.1}


@pytest.mark.parametrize("given", [{}, {"lr": 0.1}, {"lr": 0.1, "weight_decay": 0.0}])
@pytest.mark.parametrize(
    ("name", "why"), [("LBFGS", "closure"), ("SparseAdam", "dense"), ("Muon", "2D parameters")]
)
def test_an_optimiser_that_can_never_step_is_at_fault_itself(
    name: str, why: str, given: dict[str, Any]
) -> None:
    if name != "Muon":
        given = {key: value for key, value in given.items() if key == "lr"}
    node = {"_target_": f"torch.optim.{name}", "_partial_": True, **given}
    with pytest.raises(UserError, match=rf"{why}.*; take another class for 'x'$"):
        check_node("x", node, "optimizer")


@pytest.mark.parametrize("given", [{}, {"patience": 5}, {"patience": 5, "factor": 0.5}])
def test_a_schedule_that_can_never_step_is_at_fault_itself(given: dict[str, Any]) -> None:
    node = {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau", **given}
    with pytest.raises(UserError, match=r"'metrics'; take another class for 'x'$"):
        try_scheduler("x", node, lambda: try_optimizer("y", SGD), 10)


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ({"lr": -1}, "change 'x.lr'"),
        ({"lr": 0.1, "momentum": -1}, "change 'x.momentum'"),
        (
            {"lr": 0.1, "nesterov": True, "dampening": 0.5, "momentum": 0.9},
            "change a value of 'x'",
        ),
        ({"lr": -1, "momentum": -1}, "change a value of 'x'"),
    ],
    ids=["one", "other", "either", "both"],
)
def test_where_the_class_works_by_itself_a_value_is_at_fault(
    given: dict[str, Any], cure: str
) -> None:
    with pytest.raises(UserError) as caught:
        check_node("x", {"_target_": "torch.optim.SGD", **given}, "optimizer")
    assert str(caught.value).endswith(f"; {cure}")


def test_a_required_value_is_no_reason_to_take_another_class() -> None:
    node = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 0}
    with pytest.raises(UserError, match=r"; change 'x\.step_size'$"):
        try_scheduler("x", node, lambda: try_optimizer("y", SGD), 10)
