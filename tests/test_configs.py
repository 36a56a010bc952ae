"""Every data set composes with every baseline, budget and experiment, and passes the check."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from src.common.errors import UserError
from src.common.package import CONF, ROOT
from src.config.arguments import as_typed, understood
from src.config.check import check
from src.config.composition import COMPOSITION_ERRORS, explain
from src.config.schema import RunConfig
from src.naming import RunName, resolved
from tests.compose import checked, composed, plain
from tests.test_baseline_contract import method_and_data


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


ALL = [
    (baseline, dataset, budget)
    for baseline in options("baseline")
    for dataset in options("setting")
    for budget in options("budget")
]
BUDGETS = "paper", "laptop", "smoke"
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


def numbers(node: Any, path: str = "") -> dict[str, float]:
    """All numbers of a node by dotted key."""
    if isinstance(node, Mapping):
        found = [numbers(value, f"{path}.{key}") for key, value in node.items()]
        return {key: value for each in found for key, value in each.items()}
    return {path: node} if isinstance(node, int | float) else {}


@pytest.mark.parametrize("baseline", options("baseline"))
def test_the_smoke_budget_shrinks_what_the_laptop_s_does(baseline: str) -> None:
    nodes = [checked(baseline, "digits", budget).baseline for budget in BUDGETS]
    paper, laptop, smoke = (numbers(node) for node in nodes)
    shrunk = {key for key, value in laptop.items() if value < paper.get(key, math.inf)}
    assert [key for key in shrunk if smoke.get(key, math.inf) > laptop[key]] == []


@pytest.mark.parametrize("name", options("student"))
def test_every_network_can_be_a_student(name: str) -> None:
    checked = check(plain(f"student={name}", "kdci=none"))
    assert checked.student.name.startswith(name)
    assert checked.kdci is None


@pytest.mark.parametrize("name", sorted({*options("teacher")} - {"base"}))
def test_every_teacher_can_teach_itself(name: str) -> None:
    checked = check(plain(f"teacher={name}", f"student={name}"))
    assert checked.teacher.name == checked.student.name


# Experiments: points at paper length, and with `budget=laptop dataset=digits` behind.
POINTS = {
    "ablation": (15, 15),
    "adjustments": (150, 150),
    "controlled_shift": (100, 100),
    "cost": (12, 12),
    "fig1_substitution": (6, 6),
    "fig4_dictionary_size": (216, 216),
    "fig5_tsne": (2, 2),
    "table_cifar10": (180, 36),  # five pairs, and on digits its own
    "table_cifar100": (180, 36),
    "table_imagenet": (108, 36),
    "table_tiny_imagenet": (36, 36),
    "variance": (36, 36),
}
POOLS = {
    "controlled_shift": "src.dataset.controlled_pool.ControlledPool"
}  # the others: of the data set
SHRUNK = ("budget=laptop", "dataset=digits")


def test_every_experiment_is_listed() -> None:
    assert {path.stem for path in (ROOT / "experiments").glob("*.yaml")} == set(POINTS)
    readme = (ROOT / "experiments" / "README.md").read_text()
    assert [name for name in POINTS if f"`{name}`" not in readme] == []


def points(*overrides: str) -> list[list[str]]:
    """What Hydra's sweeper makes of the arguments: those of every point."""
    params = composed(*overrides).hydra.sweeper.params
    given = [*(f"{key}={value}" for key, value in params.items()), *overrides]
    parsed = OverridesParser.create().parse_overrides(given)
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    return [list(point) for point in batch]


@pytest.mark.parametrize("name", POINTS)
def test_every_experiment_at_paper_length(name: str) -> None:
    every = points(f"experiments={name}")
    assert len(every) == POINTS[name][0]
    config = check(plain(*every[-1]))  # what lies before is checked above and below
    assert config.budget == "paper"
    assert config.pool["_target_"] == POOLS.get(name, "src.dataset.folder_pool.FolderPool")


@pytest.mark.parametrize("name", POINTS)
def test_every_experiment_shrunk_to_this_machine(name: str) -> None:
    every = points(f"experiments={name}", *SHRUNK)
    assert len(every) == POINTS[name][1]
    config = check(plain(*every[-1]))
    networks = (config.teacher.name, config.student.name)
    assert (*networks, config.budget) == ("convnet_m", "convnet_s", "laptop")
    assert config.pool["_target_"] == POOLS.get(name, "src.dataset.photo_patches.PhotoPatches")


@pytest.mark.parametrize("path", sorted((CONF / "pair").glob("*_*.yaml")), ids=lambda p: p.stem)
def test_a_pair_is_called_as_its_networks_are(path: Path) -> None:
    dataset = "imagenet" if path.stem.endswith("_imagenet") else "cifar10"
    config = check(plain(f"dataset={dataset}", f"pair={path.stem}"))
    names = f"{config.teacher.name.removesuffix('_imagenet')}_{config.student.name}"
    assert names == path.stem
    mine = check(plain(f"pair={path.stem}", "teacher=wrn16_2"))  # the command line wins
    assert (mine.teacher.name, mine.student.name) == ("wrn16_2", config.student.name)


@pytest.mark.parametrize(
    ("kdci", "node", "key", "value"),
    [
        ("random_attention", "adjustment", "attention", "random"),
        ("random_prototypes", "dictionary", "prototypes", "random"),
        ("uniform_prior", "adjustment", "prior", "uniform"),
    ],
)
def test_an_ablation_differs_in_one_option(kdci: str, node: str, key: str, value: str) -> None:
    full, ablated = plain("kdci.N=8"), plain(f"kdci={kdci}", "kdci.N=8")
    assert full["kdci"][node][key] != value
    full["kdci"][node][key] = value
    full["kdci"]["name"] = kdci  # what folders and tables call it
    assert ablated == full


def test_no_stage_a_of_the_variance_has_two_teachers() -> None:
    drawn = {
        (config.seed, config.teacher.seed)
        for seed in range(6)
        if (config := check(plain("experiments=variance", *SHRUNK, f"seed={seed}")))
    }
    assert drawn == {(0, 0), (1, 0), (2, 0), (3, 1), (4, 1), (5, 1)}


@pytest.mark.parametrize("budget", [(), ("budget=laptop",), ("budget=smoke",)], ids=str)
def test_a_setting_of_another_data_set_may_be_typed(budget: tuple[str, ...]) -> None:
    typed = ("dataset=cifar10", "setting=digits", *budget)
    config = check(plain(*understood(typed)))
    assert (config.teacher.name, config.student.name) == ("convnet_m", "convnet_s")


@pytest.mark.parametrize("budget", [(), ("budget=laptop",), ("budget=smoke",)], ids=str)
def test_settings_may_be_swept_over(budget: tuple[str, ...]) -> None:
    flag, *typed = understood(("-m", "dataset=cifar10", "setting=digits,cifar100", *budget))
    assert flag == "-m"
    (points,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(typed), None)
    names = "digits", "cifar100"
    for point, name in zip(points, names, strict=True):
        alone = understood(("dataset=cifar10", f"setting={name}", *budget))
        assert plain(*point) == plain(*alone)
        assert as_typed(point) == ["dataset=cifar10", f"setting={name}", *budget]
        assert as_typed(alone) == as_typed(point)
    assert [plain(*point)["teacher"]["name"] for point in points] == ["convnet_m", "resnet34"]


def test_a_setting_in_other_words_is_told_what_to_write() -> None:
    typed = ("dataset=cifar10", "setting='digits'", "budget=laptop")
    with pytest.raises(COMPOSITION_ERRORS) as caught:
        plain(*understood(typed))
    assert explain(caught.value, typed).startswith("Cannot compose 'setting='digits'', whose")
    with pytest.raises(COMPOSITION_ERRORS) as caught:
        plain(*(single := understood(("setting=digits", "teacher=${nowhere}"))))
    assert "before" not in explain(caught.value, single)


@pytest.mark.parametrize("value", ["null", "true", "2024", "NULL", "Null", "a,b", "a,null"])
def test_what_is_no_name_of_a_setting_stays_as_it_was_typed(value: str) -> None:
    assert understood([f"setting={value}"]) == [f"setting={value}"]


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
    published = checked(*method_and_data(path.stem), "paper").substitution.published_mode
    known = {"dafl": "online", "fast": "online", "cmi": "online", "mosaickd": "online"}
    known |= {"dfnd": "replay", "deepinv_cifar10": "online", "deepinv_imagenet": "replay"}
    expected = next(
        (mode for name, mode in known.items() if path.stem.startswith(name)), published
    )
    assert published == expected
    assert published in ("online", "replay")
