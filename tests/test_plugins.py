"""A package outside the repository: found, allowed, told apart by its source, and run."""

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from src import naming
from src.command import command
from src.common import package
from src.common.errors import UserError
from src.common.provenance import source_files
from src.config import arguments, options, points
from src.config.check import check
from src.deploy.student import load_student
from src.identity import Identity, Traits, code_of
from src.pipeline.content import traits_of
from src.pipeline.identify import find
from tests.mylab import FILES, write
from tests.smoke import Finished

CHOSEN = ["plugins=[mylab]", "baseline=mine", "dataset=blobs"]
TRAITS = Traits(True, False, False, is_compensated=True)
SHAPED = {
    "mine.py": {"stage_a"},
    "strength.py": {"stage_a"},  # which mine.py imports by `from .strength`
    "blobs.py": {"teacher"},
    "pooled.py": {"teacher", "stage_b"},
    "__init__.py": {"teacher", "stage_a", "stage_b"},  # runs before any of its modules
    "unused.py": set(),
}


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package, on Python's path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield write(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Hydra makes of the arguments and the package's options."""
    (path,) = arguments.search_path([write(tmp_path_factory.mktemp("lab")) / "conf"], [])
    with initialize_config_dir(str(package.CONF), version_base="1.3"):
        return naming.resolved(compose("config", [*CHOSEN, path]))


@pytest.fixture
def config(mylab: Path, composed: dict[str, Any]) -> dict[str, Any]:
    """The same, to be changed, with the package on the path."""
    return deepcopy(composed)


def complaint(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        check(config)
    return str(caught.value)


def test_its_options_and_classes_are_used(config: dict[str, Any], mylab: Path) -> None:
    checked = check(config)
    assert checked.baseline["_target_"] == "mylab.mine.Mine"
    assert checked.substitution.published_mode == "online"  # its recipe
    assert (checked.budget, checked.student.name) == ("tiny", "pooled")
    assert traits_of(checked) == TRAITS
    name = naming.RunName("distill", {"recipe": "mine_blobs", "budget": "paper"})
    assert (name.recipe, name.budget) == (None, "generic")
    name = naming.RunName(name.task, name.choices, conf=(package.CONF, mylab / "conf"))
    assert (name.recipe, name.budget) == ("mine_blobs", "paper")


def test_nothing_is_allowed_by_being_there(config: dict[str, Any]) -> None:
    del config["plugins"][0]
    assert complaint(config) == (
        "Refused 'dataset._target_=mylab.blobs.Blobs': expected a class of src., torch.optim., "
        "torchvision.; plugins=[PACKAGE] on the command line allows another package"
    )
    assert "mylab" not in sys.modules


@pytest.mark.parametrize("target", ["os.system", "mylabs.X", "mylab", "numpy.ndarray"])
def test_all_else_stays_refused(target: str, config: dict[str, Any]) -> None:
    config["baseline"]["_target_"] = target
    message = complaint(config)
    assert message.startswith(f"Refused 'baseline._target_={target}': expected a class of src., ")
    assert "torchvision., mylab.; plugins=[PACKAGE]" in message


def test_what_a_module_has_imported_is_not_its_own(config: dict[str, Any], mylab: Path) -> None:
    (mylab / "tools.py").write_text("from subprocess import Popen")
    config["baseline"]["loss"] = {"_target_": "mylab.tools.Popen", "args": "true"}
    message = complaint(config)
    assert message.startswith("Refused 'baseline.loss._target_=subprocess.Popen': expected a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raise RuntimeError('boom')", "Cannot import 'baseline._target_=mylab.mine.Mine' (Runt"),
        ("import nowhere", "'baseline._target_=mylab.mine.Mine' (No module named 'nowhere')"),
        ("def times(", "Cannot import 'baseline._target_=mylab.mine.Mine' (SyntaxError: "),
    ],
)
def test_why_it_cannot_be_imported_is_told(
    text: str, expected: str, config: dict[str, Any], mylab: Path
) -> None:
    (mylab / "strength.py").write_text(text)
    assert expected in complaint(config)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"_target_": "mylab.blobs.Blobs"}, "expected a baseline, a subclass of src.substitution"),
        ({"loss": {"_target_": "mylab.mine.Confident", "weight": -1}}, "expected greater than 0"),
        ({"loss": {"_target_": "mylab.pooled.Pooled", "width": 1}}, "expected a Confident"),
        ({"loss": 3}, "'baseline.loss': expected a node with a `_target_` that makes a Confident"),
    ],
)
def test_its_options_are_checked_like_ours(
    change: dict[str, Any], expected: str, config: dict[str, Any]
) -> None:
    config["baseline"] |= change
    assert expected in complaint(config)


def test_a_configuration_cannot_allow_what_is_no_plugin(config: dict[str, Any]) -> None:
    config["plugins"].append("os")
    assert complaint(config).startswith("Refused 'plugins=[os]'")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["plugins=a"], ["a"]),
        (["plugins=[a,b]", "-m"], ["a", "b"]),
        (["++plugins=[a]"], ["a"]),
        (["plugins=[a]", "plugins=[b]"], ["b"]),
    ],
)
def test_the_command_line_names_them(given: list[str], expected: list[str]) -> None:
    assert arguments.plugins_of(arguments.understood(given)) == expected


@pytest.mark.parametrize("value", ["[1]", "null", "a,b", "[a],[b]", "{a: 1}", "[[a]]", ""])
def test_only_a_list_of_names_will_do(value: str) -> None:
    with pytest.raises(UserError, match="'plugins': expected a list of packages, such as"):
        arguments.plugins_of(arguments.understood(["-m", f"plugins={value}"]))


def test_a_search_path_of_ones_own_is_not_dropped_in_silence(tmp_path: Path) -> None:
    """It would take the place of ours, by which experiments are found."""
    for conf in ([], [tmp_path]):
        with pytest.raises(UserError, match=r"Cannot use hydra\.searchpath, .* --config-dir=FOL"):
            arguments.search_path(conf, ["hydra.searchpath=[]"])


def test_a_folder_of_any_name_is_searched(tmp_path: Path) -> None:
    conf = write(tmp_path / "it's, [mine] {a} = b") / "conf"
    (path,) = arguments.search_path([conf], [])
    with initialize_config_dir(str(package.CONF), version_base="1.3"):
        assert compose("config", ["dataset=blobs", path]).budget == "tiny"


@pytest.mark.parametrize(
    "name", ["conf/baseline/dafl", "conf/budget/smoke/cmi", "experiments/table_cifar10"]
)
def test_a_name_of_ours_is_not_shadowed(name: str, tmp_path: Path) -> None:
    conf = write(tmp_path) / "conf"
    options.refuse_shadowed_options([conf])
    path = conf / f"{name.removeprefix('conf/')}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a: 1")
    with pytest.raises(UserError) as caught:
        options.refuse_shadowed_options([conf])
    assert str(caught.value) == (
        f"Refused '{path}': expected a name of its own, but '{name}.yaml' has it already; rename "
        "the former"
    )


def test_the_documentation_shows_this_package() -> None:
    shown = (package.ROOT / "docs/plug-ins.md").read_text()
    assert all(f"`{name}`" in shown and text in shown for name, text in FILES.items() if text)


def test_two_plugins_do_not_shadow_each_other(tmp_path: Path) -> None:
    folders = [write(tmp_path / name) / "conf" for name in "ab"]
    with pytest.raises(UserError, match=r"Refused '.*b/mylab/conf/.*, but '.*a/mylab/conf/"):
        options.refuse_shadowed_options(folders)


def test_neither_do_the_users_own_options_nor_ours(tmp_path: Path) -> None:
    conf, own = write(tmp_path / "a") / "conf", tmp_path / "own"
    for name in ("baseline/mine.yaml", "student/wrn16_1.yaml", "experiments/cost.yaml"):
        path = own / name
        path.parent.mkdir(parents=True)
        path.write_text("a: 1\n")
        with pytest.raises(UserError, match=f"Refused '{path}': .*; rename the former"):
            options.refuse_shadowed_options([conf, own])
        shutil.rmtree(own)
    options.refuse_shadowed_options([conf, package.ROOT])  # the same files have no other name


def test_its_options_are_known_before_hydra_reads_them(tmp_path: Path) -> None:
    conf = write(tmp_path) / "conf"
    options.refuse_unknown_options(["experiments=both", "recipe=mine_blobs"], [conf])
    assert "mine" in options.options_of("baseline", [conf])
    assert "mine" not in options.options_of("baseline")
    assert points.without_patterns(["baseline=glob(mi*)"], [conf]) == ["baseline=mine"]
    with pytest.raises(UserError, match="did you mean 'mine_blobs'"):
        options.refuse_unknown_options(["recipe=mine_blob"], [conf])
    (conf / "experiments/both.yaml").write_text("seed: 1")
    with pytest.raises(UserError, match=r"Wrong header of '.*both\.yaml'"):
        options.refuse_unknown_options(["experiments=both"], [conf])


def test_its_source_counts_like_ours(config: dict[str, Any], mylab: Path) -> None:
    before = code_of(config, TRAITS)
    for name in SHAPED:
        with (mylab / name).open("a") as file:
            file.write("\n# words\n")
    assert code_of(config, TRAITS) == before
    for name, expected in SHAPED.items():
        with (mylab / name).open("a") as file:
            file.write("EDITED = 1\n")
        now = code_of(config, TRAITS)
        assert {part for part in now if now[part] != before[part]} == expected, name
        before = now


def test_a_class_without_source_is_refused(config: dict[str, Any]) -> None:
    config["baseline"]["_target_"] = "mylab.fast.Mine"
    with pytest.raises(UserError, match=r"Cannot find the source of 'mylab\.fast' in the plug-in"):
        code_of(config, TRAITS)


def test_which_packages_are_allowed_shapes_nothing(config: dict[str, Any]) -> None:
    def identity(plugins: list[str]) -> str:
        return Identity(config | {"plugins": plugins}, TRAITS, "cpu", {}, {}).run

    assert identity(["a", "b"]) == identity(["b", "a"]) == identity([])


def test_what_is_remembered_rests_on_its_files(
    config: dict[str, Any], mylab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {mylab / "mine.py", mylab / "strength.py"} < set(source_files(["mylab"]))
    assert mylab / "mine.py" not in source_files()
    before = naming.memory_of(config, {})
    assert naming.memory_of(config, {}) == before
    write(tmp_path / "other")
    monkeypatch.syspath_prepend(str(tmp_path / "other"))  # the same name elsewhere
    assert naming.memory_of(config, {}) != before


def test_what_is_remembered_rests_on_the_names_beside_its_files(
    config: dict[str, Any], mylab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder `strength` would take the place of `strength.py`."""
    asked: list[set[str | Path]] = []

    def remember(_: Path, rests_on: Callable[[], list[str | Path]], __: Any) -> dict[str, Any]:
        asked.append(set(rests_on()))
        return {"on": ["cpu", "32-true"]}

    monkeypatch.setattr("src.pipeline.identify.remember", remember)
    find(check(config), naming.RunName("distill", {}), tmp_path / "memory.json")
    assert {mylab, mylab / "mine.py", package.ROOT / "src" / "kdci"} < asked[0]


@pytest.fixture
def as_typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """The command, in this process; what it leaves there is undone."""
    for name in ("HYDRA_FULL_ERROR", "KDCI_PLUGINS"):
        monkeypatch.setenv(name, "")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*typed: str) -> None:
        monkeypatch.setattr(sys, "argv", ["kdci", *typed])
        command()

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_whole_run(mylab: Path, tmp_path: Path, as_typed: Callable[..., None]) -> None:
    outputs = tmp_path / "outputs"
    paths = [f"paths.outputs={outputs}", f"paths.cache={tmp_path / 'cache'}"]
    as_typed("plugins=mylab", *CHOSEN[1:], *paths, "trainer.progress=false")
    finished = Finished(0, "", "", outputs)
    summary = finished.summary
    assert finished.folder.parent.name == "blobs_mine_backdoor"
    assert (summary["status"], summary["recipe"]) == ("finished", "mine_blobs")
    assert (summary["budget"], summary["student"]["name"]) == ("tiny", "pooled")
    expected = r"architecture of src\.network, but got 'mylab.*allow it: plugins=\['mylab'\] of lo"
    with pytest.raises(UserError, match=expected):
        load_student(finished.folder)
    assert load_student(finished.folder, ["mylab"]).network.conv.out_channels == 8


def test_an_adjustment_of_its_own(
    mylab: Path, tmp_path: Path, as_typed: Callable[..., None]
) -> None:
    outputs = tmp_path / "outputs"
    paths = [f"paths.outputs={outputs}", f"paths.cache={tmp_path / 'cache'}"]
    as_typed("plugins=mylab", *CHOSEN[1:], "kdci=sure", *paths, "trainer.progress=false")
    summary = Finished(0, "", "", outputs).summary
    assert (summary["status"], summary["kdci"]["name"]) == ("finished", "sure")
    assert summary["adjustment"] == {"power": 1.0}


def test_a_file_does_not_allow_itself(
    mylab: Path,
    tmp_path: Path,
    as_typed: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair/sly.yaml").write_text("# @package _global_\nplugins: [mylab]\n")
    with pytest.raises(SystemExit) as caught:
        as_typed("pair=sly", f"--config-dir={tmp_path}")
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(
        "Error: Refused 'plugins' of a configuration file: expected [], as on the command line"
    )
    assert "mylab" not in sys.modules
