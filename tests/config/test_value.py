from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import PositiveInt
from torch.optim import SGD, Optimizer

from src.common.errors import UserError
from src.config.value import (
    LARGEST_COUNT,
    Wanted,
    check_bounds,
    check_value,
    hints_of,
    reason,
    refuse_non_finite,
    shown,
    wanted,
)


def test_what_is_shown_is_bounded_and_never_an_error() -> None:
    assert shown("a") == "'a'"
    assert shown("a" * 1000) == "'" + "a" * 199 + "..."
    assert shown(10**5000) == "a int that cannot be shown"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (ValueError(), "ValueError"),
        (TypeError("what"), "TypeError: what"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_reason_is_one_line(error: Exception, expected: str) -> None:
    assert reason(error) == expected


def test_infinities_are_found_anywhere() -> None:
    refuse_non_finite("", {"a": [1.0, {"b": "inf"}]})
    with pytest.raises(UserError, match=r"'a\.1\.b': expected a finite number, but got inf"):
        refuse_non_finite("", {"a": [1.0, {"b": float("inf")}]})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"seed": 2**63}, r"'x\.seed': expected <= 9223372036854775807"),
        ({"n": [1, LARGEST_COUNT + 1]}, r"'x\.n\.1': expected <= 1000000000"),
        ({"n": -LARGEST_COUNT - 1}, r"'x\.n': expected >= -1000000000"),
    ],
)
def test_slips_are_found_anywhere(value: Any, expected: str) -> None:
    check_bounds("x", "x", {"seed": 2**63 - 1, "n": [LARGEST_COUNT, -LARGEST_COUNT]})
    with pytest.raises(UserError, match=expected):
        check_bounds("x", "x", value)


@pytest.mark.parametrize(
    ("value", "hint"),
    [([1, 2], tuple[int, int]), ("a/b", Path), (3, PositiveInt), (None, int | None), (1, Any)],
)
def test_a_value_of_the_type_passes(value: Any, hint: Any) -> None:
    check_value("x", value, hint)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("1", int, "'x': expected a valid integer, but got '1'"),
        (0, PositiveInt, "'x': expected greater than 0, but got 0"),
        ("c", Literal["a", "b"], "'x': expected 'a' or 'b', but got 'c'"),
        (0.5, Sequence[float], "'x': expected a list, but got 0.5"),
        (3, Optimizer, "'x': expected a node with a `_target_`, but got 3"),
    ],
)
def test_a_value_of_another_type_is_refused(value: Any, hint: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        check_value("x", value, hint)
    assert expected in str(caught.value)


def test_hints_of_torch_are_those_that_yaml_can_meet() -> None:
    assert hints_of(SGD)["lr"] is float


def test_what_only_a_node_can_give_is_known() -> None:
    assert wanted(Optimizer | None) == Wanted(Optimizer, is_factory=False)
    assert wanted(int | str) is None
