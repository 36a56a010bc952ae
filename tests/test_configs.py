"""Every data set composes with every baseline, budget and experiment, and passes the check."""

import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from src.common.errors import UserError
from src.config.schema import RunConfig, check
from src.naming import CONF, ROOT, RunName, resolved
from tests.compose import checked, composed, plain


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


ALL = [
    (baseline, dataset, budget)
    for baseline in options("baseline")
    for dataset in options("setting")
    for budget in options("budget")
]
every = pytest.mark.parametrize(("baseline", "dataset", "budget"), ALL)


@every
def test_every_pair_of_baseline_and_data_set(baseline: str, dataset: str, budget: str) -> None:
    config = checked(baseline, dataset, budget)
    assert config.baseline["_target_"].startswith(f"src.baseline.{baseline}.")
    assert config.budget == budget


def student_steps(config: RunConfig) -> int:
    return config.distill.epochs * config.distill.steps_per_epoch


@every
def test_every_budget_only_shrinks(baseline: str, dataset: str, budget: str) -> None:
    published, shrunk = checked(baseline, dataset, "paper"), checked(baseline, dataset, budget)
    assert shrunk.substitution.rounds <= published.substitution.rounds
    assert student_steps(shrunk) <= student_steps(published)


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
    assert set(options("setting")) == set(options("dataset")) - {
        "photo_patches",
        "folder_pool",
        "controlled",
    }


# Budgets of one's own, and what a run is called.

MINE = """# @package _global_
defaults:
  - laptop
  - _self_
budget: mine
distill:
  epochs: 3
"""


def test_a_budget_of_ones_own_is_a_file(tmp_path: Path) -> None:
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf" / "budget" / "mine.yaml").write_text(MINE)
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        config = check(resolved(compose("config", ["budget=mine", "baseline=cmi"])))
    assert (config.budget, config.distill.epochs) == ("mine", 3)
    assert config.distill.scheduler_steps == 3
    assert config.substitution.rounds == 20


def name_of(*overrides: str) -> RunName:
    return RunName("distill", dict(composed(*overrides).hydra.runtime.choices))


def test_a_budget_is_called_as_its_file_is() -> None:
    name = name_of("budget=laptop")
    name.require_budget("laptop")
    with pytest.raises(UserError, match=r"'budget' in 'conf/budget/laptop.yaml' to be 'laptop'"):
        name.require_budget("smoke")


@pytest.mark.parametrize(
    ("overrides", "recipe", "budget"),
    [
        (("dataset=cifar10", "baseline=cmi"), "cmi_cifar10", "paper"),
        (("dataset=cifar10", "baseline=cmi", "budget=smoke"), "cmi_cifar10", "smoke"),
        (("dataset=image_folder", "recipe=cmi_cifar10"), "cmi_cifar10", "paper"),
        (("dataset=image_folder", "baseline=cmi"), None, "generic"),
        (("dataset=image_folder", "baseline=cmi", "budget=laptop"), None, "laptop"),
        (("dataset=cifar10", "~recipe"), None, "generic"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_without_a_recipe_nothing_is_of_the_paper(
    overrides: tuple[str, ...], recipe: str | None, budget: str
) -> None:
    name = name_of(*overrides)
    assert (name.recipe, name.budget) == (recipe, budget)


@pytest.mark.parametrize("path", sorted((CONF / "recipe").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_says_how_its_method_was_published(path: Path) -> None:
    baseline, _, dataset = path.stem.partition("_")
    published = checked(baseline, dataset, "paper").substitution.published_mode
    is_replay = baseline == "dfnd" or path.stem == "deepinv_imagenet"
    assert published == ("replay" if is_replay else "online")
