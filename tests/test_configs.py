"""Every data set composes with every baseline, budget and experiment, and passes the check."""

from pathlib import Path

import pytest

from src.config.schema import check
from src.naming import CONF, ROOT
from tests.compose import plain


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("dataset", options("setting"))
@pytest.mark.parametrize("baseline", options("baseline"))
def test_every_pair_of_baseline_and_data_set(baseline: str, dataset: str) -> None:
    checked = check(plain(f"baseline={baseline}", f"dataset={dataset}"))
    assert checked.baseline["_target_"].startswith(f"src.baseline.{baseline}.")


@pytest.mark.parametrize("budget", ["paper", "laptop", "smoke"])
@pytest.mark.parametrize("baseline", options("baseline"))
def test_every_budget_only_shrinks(baseline: str, budget: str) -> None:
    pair = (f"baseline={baseline}", "dataset=cifar10")
    published, shrunk = (check(plain(*pair, f"budget={b}")) for b in ("paper", budget))
    assert shrunk.budget == budget
    assert shrunk.substitution.rounds <= published.substitution.rounds
    steps = [c.distill.epochs * c.distill.steps_per_epoch for c in (shrunk, published)]
    assert steps[0] <= steps[1]


@pytest.mark.parametrize("name", options("student"))
def test_every_network_can_be_teacher_and_student(name: str) -> None:
    checked = check(plain(f"teacher={name}", f"student={name}", "kdci=none"))
    assert checked.teacher.name == checked.student.name
    assert checked.student.name.startswith(name)
    assert checked.kdci is None


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_experiment(path: Path) -> None:
    check(plain(f"experiments={path.stem}"))


def test_every_data_set_has_a_setting() -> None:
    assert set(options("setting")) == set(options("dataset")) - {"photo_patches", "folder_pool"}
