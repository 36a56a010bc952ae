import re
from pathlib import Path
from typing import Any

import pytest
import torch

from src.common.errors import UserError
from src.config.node import build, build_partial, is_node, refuse_foreign_targets, target_of

SGD = {"_target_": "torch.optim.SGD", "lr": 0.5}


def test_an_object_is_built_from_the_node_and_what_is_supplied() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2))]
    optimizer = build(SGD, params=parameters)
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.param_groups[0]["params"][0] is parameters[0]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_partial_waits_for_the_rest_and_nothing_makes_none() -> None:
    partial = build_partial(SGD)
    assert (partial.func, partial.keywords) == (torch.optim.SGD, {"lr": 0.5})
    assert build_partial(None) is None


def test_lists_arrive_as_plain_lists() -> None:
    assert type(build_partial(SGD | {"x": [1]}).keywords["x"]) is list


@pytest.mark.parametrize(("value", "expected"), [(SGD, True), ({}, False), ([SGD], False)])
def test_a_node_has_a_target(value: Any, expected: bool) -> None:
    assert is_node(value) == expected


def test_the_target_is_a_class() -> None:
    assert target_of("x", SGD) is torch.optim.SGD
    function = "src.config.node.build"
    with pytest.raises(UserError, match=rf"'x\._target_={re.escape(function)}': expected a class"):
        target_of("x", {"_target_": function})


def test_a_foreign_target_is_refused_at_any_depth(tmp_path: Path) -> None:
    evil = {"_target_": "os.mkdir", "path": str(tmp_path / "trace")}
    with pytest.raises(UserError, match=r"Refused 'x\.a\.0\.b\._target_=os\.mkdir'"):
        refuse_foreign_targets("x", SGD | {"a": [{"b": evil}]})
    assert not (tmp_path / "trace").exists()
