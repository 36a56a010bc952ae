"""Every data set composes with every baseline, budget and experiment, and passes the check."""

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from src.launch import CONF, ROOT, resolved
from src.schema import check


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolved(compose("config", overrides=list(overrides)))


@pytest.mark.parametrize("dataset", options("setting"))
@pytest.mark.parametrize("baseline", options("baseline"))
def test_every_pair_of_baseline_and_data_set(baseline: str, dataset: str) -> None:
    checked = check(composed(f"baseline={baseline}", f"dataset={dataset}"))
    assert checked.baseline["_target_"].startswith(f"src.baseline.{baseline}.")


@pytest.mark.parametrize("budget", ["paper", "laptop", "smoke"])
@pytest.mark.parametrize("baseline", options("baseline"))
def test_every_budget_only_shrinks(baseline: str, budget: str) -> None:
    pair = (f"baseline={baseline}", "dataset=cifar10")
    published, shrunk = (check(composed(*pair, f"budget={b}")) for b in ("paper", budget))
    assert shrunk.budget == budget
    assert shrunk.substitution.rounds <= published.substitution.rounds
    steps = [c.distill.epochs * c.distill.steps_per_epoch for c in (shrunk, published)]
    assert steps[0] <= steps[1]


@pytest.mark.parametrize("name", options("student"))
def test_every_network_can_be_teacher_and_student(name: str) -> None:
    checked = check(composed(f"teacher={name}", f"student={name}", "kdci=none"))
    assert checked.teacher.name == checked.student.name == name
    assert checked.kdci is None


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_experiment(path: Path) -> None:
    check(composed(f"experiments={path.stem}"))


def test_every_data_set_has_a_setting() -> None:
    assert set(options("setting")) == set(options("dataset")) - {"photo_patches", "folder_pool"}
