import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.types import RunMode
from omegaconf import DictConfig

from src.common import package
from src.common.errors import UserError
from src.config.node import refuse_foreign_targets
from src.config.reach import guard_hydra

EVIL = "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: builtins.print\n"
Composed = Callable[..., DictConfig]


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra as it reads files."""
    name = "_load_single_config"
    monkeypatch.setattr(ConfigLoaderImpl, name, getattr(ConfigLoaderImpl, name))
    guard_hydra()


@pytest.fixture
def composed(tmp_path: Path, guarded: None) -> Composed:
    """Composes with files of a plug-in's folder, as experiments."""
    (tmp_path / "conf/experiments").mkdir(parents=True)

    def from_files(*overrides: str, **files: str) -> DictConfig:
        for name, text in files.items():
            (tmp_path / f"conf/experiments/{name}.yaml").write_text(text)
        path = f"hydra.searchpath=['file://{tmp_path}/conf']"
        with initialize_config_dir(str(package.CONF), version_base="1.3"):
            return compose("config", [*overrides, path], return_hydra_config=True)

    return from_files


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (package.ROOT / "experiments").glob("*.yaml"))
)
def test_our_experiments_set_no_more_than_the_points_of_a_sweep(name: str, guarded: None) -> None:
    with initialize_config_dir(str(package.CONF), version_base="1.3"):
        config = compose("config", [f"experiments={name}"], return_hydra_config=True)
    assert config.hydra.sweeper.params


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hydra:\n  job:\n    name: mine\n", "the key 'hydra'"),
        ("hydra:\n  sweeper:\n    max_batch_size: 3\n", "the key 'hydra'"),
        ("hydra:\n  sweeper:\n    params: {}\n  verbose: true\n", "the key 'hydra'"),
        ("hydra: 3\n", "the key 'hydra'"),
        ("a: {}\nhydra:\n  sweeper:\n    params: ${a}\n", "hydra.sweeper.params: ${a}"),
        (
            "hydra:\n  sweeper:\n    params:\n      ++hydra.verbose: a\n",
            "a point's ++hydra.verbose",
        ),
        ("hydra:\n  sweeper:\n    params:\n      hydra/help: a\n", "a point's hydra/help"),
        (
            "hydra:\n  sweeper:\n    params:\n      +experiments@hydra.job_logging: a\n",
            "a point's +experiments@hydra.job_logging",
        ),
        ("defaults:\n  - override /hydra/job_logging: none\n", "default /hydra/job_logging: none"),
        ("hydra: null\n", "the key 'hydra'"),
        ("hydra:\n  sweeper:\n    params:\n      _target_: os.mkdir\n", "a point's _target_"),
        ("hydra:\n  sweeper:\n    params:\n      seed: {_target_: os.mkdir}\n", "a point's seed"),
        ("hydra:\n  sweeper:\n    params:\n      seed: [{a: b}]\n", "a point's seed"),
        (
            "a: {b: 1}\nhydra:\n  sweeper:\n    params:\n      seed: [0, '${a}']\n",
            "a point's seed",
        ),
        ("a: {b: 1}\nhydra:\n  sweeper:\n    params:\n      seed: [['${a}']]\n", "a point's seed"),
        ('"\\x68ydra":\n  verbose: true\n', "the key 'hydra'"),
        ("x: &x\n  hydra: {verbose: true}\n<<: *x\n", "the key 'hydra'"),
    ],
)
def test_a_file_that_reaches_hydra_is_refused(composed: Composed, text: str, said: str) -> None:
    with pytest.raises(UserError, match=r"mine\.yaml'.*hydra.sweeper.params, but got") as caught:
        composed("experiments=mine", mine=f"# @package _global_\n{text}")
    assert said in str(caught.value)


@pytest.mark.parametrize("header", ["hydra.job", "hydra"])
def test_a_file_that_lies_in_hydra_s_node_is_refused(composed: Composed, header: str) -> None:
    with pytest.raises(UserError, match="the key 'hydra'"):
        composed("experiments=mine", mine=f"# @package {header}\nname: mine\n")


@pytest.mark.parametrize(
    "choice",
    ["/data/evil", "/../data/evil", "/.${oc.decode:.}/data/evil", "/FOLDER/data/evil"],
)
def test_a_file_is_looked_at_wherever_it_lies(
    composed: Composed, tmp_path: Path, choice: str
) -> None:
    """On the search path by a link, above it, by a name that is yet to be evaluated, absolute."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/evil.yaml").write_text(EVIL)
    (tmp_path / "conf/data").symlink_to(tmp_path / "data")
    choice = choice.replace("FOLDER", str(tmp_path))
    with pytest.raises(UserError, match=r"evil\.yaml': expected nothing of Hydra's"):
        composed("experiments=mine", mine=f"# @package _global_\ndefaults:\n  - {choice}\n")


def test_so_is_one_that_the_value_of_a_point_leads_to(composed: Composed) -> None:
    with pytest.raises(UserError, match=r"evil\.yaml': expected nothing of Hydra's"):
        composed("kdci=../experiments/evil", evil=EVIL)


def test_an_option_of_hydra_s_own_is_not_chosen_by_a_name_still_to_be_evaluated(
    composed: Composed,
) -> None:
    choice = '  - "/.": hyd${oc.decode:ra}/output/default\n'
    with pytest.raises(UserError, match="the key 'hydra'"):
        composed("experiments=mine", mine=f"# @package _global_\ndefaults:\n{choice}")


def test_neither_is_it_by_a_file_beside_the_groups(composed: Composed, tmp_path: Path) -> None:
    choice = "hyd${oc.decode:ra}/job_logging/disabled"
    (tmp_path / "conf/other.yaml").write_text(f"defaults:\n  - {choice}\n")
    with pytest.raises(UserError, match=r"other\.yaml'.* got the default hyd\$"):
        composed("experiments=mine", mine="# @package _global_\ndefaults:\n  - /other\n")


def test_an_option_of_ours_is_not_put_into_hydra_s_node(composed: Composed) -> None:
    with pytest.raises(UserError, match=r"default\.yaml': expected nothing of Hydra's"):
        composed("+paths@hydra.help=default")


@pytest.mark.parametrize(
    "choice",
    [
        "/paths@hydra.help: default",
        "/paths@_global_.hydra.help: default",
        "/.@hydra: paths/default",
    ],
)
def test_neither_is_it_by_a_plug_in(composed: Composed, choice: str) -> None:
    with pytest.raises(UserError, match=r"default\.yaml': expected nothing of Hydra's"):
        composed("experiments=mine", mine=f"# @package _global_\ndefaults:\n  - {choice}\n")


def test_a_launcher_is_none_of_the_experiments(composed: Composed) -> None:
    with pytest.raises(UserError, match=r"evil\.yaml': expected nothing of Hydra's"):
        composed("hydra/launcher=../../experiments/evil", evil=EVIL)


OWN = "# @package _global_\nhydra:\n  job:\n    name: mine\nseed: 3\n"


@pytest.mark.parametrize("place", ["conf", "config_dir"])
def test_a_folder_that_the_user_names_is_the_users_own(
    tmp_path: Path, guarded: None, place: str
) -> None:
    main = tmp_path / "main" if place == "conf" else package.CONF
    folder = main if place == "conf" else tmp_path / "own"
    if place == "conf":
        shutil.copytree(package.CONF, main)
    (folder / "student").mkdir(parents=True, exist_ok=True)
    (folder / "hydra/job_logging").mkdir(parents=True, exist_ok=True)
    (folder / "experiments").mkdir(exist_ok=True)
    (folder / "student/mine.yaml").write_text(OWN)
    (folder / "hydra/job_logging/mine.yaml").write_text("version: 1\nown: true\n")
    (folder / "experiments/mine.yaml").write_text(OWN)
    loader = create_config_search_path(str(main))
    if place == "config_dir":
        anchor = SearchPathQuery(provider="schema")
        loader.prepend(provider="command-line", path=str(folder), anchor=anchor)

    def composed(*overrides: str) -> DictConfig:
        given = [*overrides]
        return ConfigLoaderImpl(loader).load_configuration("config", given, RunMode.RUN)

    config = composed("student=mine", "hydra/job_logging=mine")
    assert (config.hydra.job.name, config.hydra.job_logging.own, config.seed) == ("mine", True, 3)
    (folder / "student/within.yaml").symlink_to("../experiments/mine.yaml")
    (tmp_path / "student.yaml").write_text(OWN)
    (folder / "student/without.yaml").symlink_to(tmp_path / "student.yaml")
    others = ["experiments=mine", "student=../experiments/mine", "student=within"]
    for choice in (*others, "student=without", f"student=../../{folder.name}/experiments/mine"):
        with pytest.raises(UserError, match=r"yaml': expected nothing of Hydra's"):
            composed(choice)


@pytest.mark.parametrize("values", ["0,1", [0, 1]])
def test_points_of_a_sweep_and_all_else_may_be_set(composed: Composed, values: object) -> None:
    text = f"hydra:\n  sweeper:\n    params:\n      seed: {values}\nseed: 3\n"
    config = composed("experiments=mine", mine=f"# @package _global_\n{text}")
    assert config.hydra.sweeper.params == {"seed": values}
    assert config.seed == 3


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a/${x}/b"])
def test_a_text_that_is_still_to_be_evaluated_is_refused(value: str) -> None:
    node = {"root": "a$b", "names": ["plain", {"deep": value}]}
    with pytest.raises(UserError, match=r"Refused 'dataset.names.1.deep=.*interpolation"):
        refuse_foreign_targets("dataset", node)
    refuse_foreign_targets("dataset", {"root": "a$b{c}"})
