import os
from pathlib import Path

import pytest

from src.common.errors import UserError
from src.config import arguments, option_files, options
from tests.config.test_composition import BROKEN, HEADER


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program's folder with experiments of its own."""
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(option_files, "ROOT", tmp_path)
    monkeypatch.setattr(arguments, "ROOT", tmp_path)
    monkeypatch.setattr(option_files, "CONF", tmp_path / "conf")
    monkeypatch.setattr(arguments, "CONF", tmp_path / "conf")
    monkeypatch.setitem(option_files.OPTIONAL, "experiments", tmp_path / "experiments")
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("recipe=dafl_cifar", "'recipe=dafl_cifar'; did you mean 'dafl_cifar10'?"),
        ("recipe=dafl_cifar10,nothing", "'recipe=nothing'"),
        ("experiments=nothing", "'experiments=nothing'"),
    ],
)
def test_an_unknown_option_of_an_optional_group_is_refused(argument: str, expected: str) -> None:
    with pytest.raises(UserError, match="Unknown option") as caught:
        options.refuse_unknown_options(["seed=1", argument])
    assert expected in str(caught.value)


def test_known_options_and_other_arguments_pass() -> None:
    options.refuse_unknown_options(["recipe=dafl_cifar10", "-m", "recipes=x", "a=b"])


@pytest.mark.parametrize(
    "sweep",
    [
        "dafl_cifar10,{}",
        "choice(dafl_cifar10,{})",
        "choice('dafl_cifar10', '{}')",
        "shuffle(dafl_cifar10, {})",
    ],
)
def test_a_sweep_over_options_is_read_in_any_of_hydra_s_words(sweep: str) -> None:
    options.refuse_unknown_options([f"recipe={sweep.format('dafl_cifar100')}"])
    with pytest.raises(UserError, match="Unknown option 'recipe=dafk'"):
        options.refuse_unknown_options([f"recipe={sweep.format('dafk')}"])


def test_what_hydra_cannot_read_is_left_to_it() -> None:
    options.refuse_unknown_options(["recipe=choice(null,dafl_cifar10)"])


def test_an_option_may_stand_in_quotes() -> None:
    options.refuse_unknown_options(["recipe='dafl_cifar10'"])
    with pytest.raises(UserError, match="Unknown option 'recipe=dafk'"):
        options.refuse_unknown_options(["recipe='dafk'"])


@pytest.mark.parametrize("content", [each[0] for each in BROKEN if b"\x00" not in each[0]])
def test_a_broken_experiment_is_found_before_hydra_reads_it(content: bytes, folder: Path) -> None:
    (folder / "experiments" / "x.yaml").write_bytes(HEADER + content)
    with pytest.raises(UserError, match=r"'experiments/x\.yaml'"):
        options.refuse_unknown_options(["experiments=x"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "expected keys and values (`key: value`), but got an empty file"),
        ("# only a comment\n", "but got an empty file"),
        ("hello\n", "but got 'hello'"),
        ("defaults: 3\n", "Wrong value of 'defaults' in 'experiments/x.yaml'"),
        ("defaults:\n- [1]\n", "Wrong value of 'defaults' in 'experiments/x.yaml'"),
        ("defaults:\n- {a: b, c: d}\n", "Wrong value of 'defaults' in 'experiments/x.yaml'"),
    ],
)
def test_an_experiment_that_hydra_would_misread_is_refused(
    content: str, expected: str, folder: Path
) -> None:
    (folder / "experiments" / "x.yaml").write_text(content)
    with pytest.raises(UserError) as caught:
        options.refuse_unknown_options(["experiments=x"])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (
            "budget=laptop/dafl",
            "Unknown option 'budget=laptop/dafl' (one of: laptop, paper, smoke)",
        ),
        ("kdci=null", "'kdci=null'; for a run without compensation use kdci=none (one of: "),
        ("~kdci", "Cannot remove the group 'kdci': every run needs one; for a run without comp"),
        ("~kdci=backdoor", "Cannot remove the group 'kdci'"),
        ("~kdci/adjustment", "Cannot remove the group 'kdci/adjustment'"),
        ("kdci/adjustment=null", "Unknown option 'kdci/adjustment=null' (one of: "),
        ("kdci=[none]", "Unknown option 'kdci=[none]'"),
        ("kdci=", "Unknown option 'kdci='"),
        ("dataset=null,digits", "Unknown option 'dataset=null' (one of: cifar10, "),
        ("dataset=null", "Unknown option 'dataset=null' (one of: cifar10, "),
        ("dataset=3", "Unknown option 'dataset=3'"),
        ("dataset@pool=null", "Unknown option 'dataset@pool=null'"),
        ("~dataset", "Cannot remove the group 'dataset': every run needs one (one of: cifar10, "),
        ("~dataset@pool", "Cannot remove the group 'dataset@pool'"),
        ("student={a: 1}", "Unknown option 'student={a: 1}'"),
        ("budget=nan", "Unknown option 'budget=nan' (one of: laptop, "),
        ("teacher=null", "Unknown option 'teacher=null'"),
        ("logger=1e30", "Unknown option 'logger=1e30' (one of: "),
        ("kdci=none,-1.5e3", "Unknown option 'kdci=-1500.0'"),
        ("budget=true", "Unknown option 'budget=true'"),
        ("=3", "Cannot read the argument '=3': expected key=value"),
    ],
)
def test_a_group_without_an_option_is_refused(argument: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        options.refuse_unknown_options(["seed=1", argument])
    assert str(caught.value).startswith(expected) or expected in str(caught.value)


def test_options_and_keys_within_groups_pass() -> None:
    options.refuse_unknown_options(
        ["kdci=none,backdoor", "~kdci.N", "kdci.N=3", "distill.scheduler=null", "~recipe", "-m"]
    )


@pytest.mark.parametrize(
    ("header", "got"),
    [
        ("# @package\n", "'# @package'"),
        ("# @package a b\n", "'# @package a b'"),
        ("# @package\t_global_\n", "'# @package\\t_global_'"),
        ("# @packages _global_\n", "none"),
        ("# what it is for\n# @package _global_\n", "none"),
        ("", "none"),
    ],
)
def test_an_experiment_whose_keys_would_go_astray_is_refused(
    header: str, got: str, folder: Path
) -> None:
    (folder / "experiments" / "x.yaml").write_text(f"{header}seed: 1\n")
    with pytest.raises(UserError) as caught:
        options.refuse_unknown_options(["experiments=x"])
    assert str(caught.value) == (
        "Wrong header of 'experiments/x.yaml': expected `# @package _global_` on top, "
        f"but got {got}"
    )


@pytest.mark.parametrize("header", ["# @package _global_", "\n #@package  _global_ ", "# @a b"])
def test_a_header_that_hydra_understands_passes(header: str, folder: Path) -> None:
    (folder / "experiments" / "x.yaml").write_text(f"{header}\n# @package distill\nepochs: 1\n")
    options.refuse_unknown_options(["experiments=x"])


@pytest.mark.parametrize("kind", ["pipe", "device", "nested"])
def test_an_experiment_that_never_ends_is_refused_unread(kind: str, folder: Path) -> None:
    path = folder / "experiments" / "x.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(HEADER + b"a: " + b"[" * 3000)
    with pytest.raises(UserError, match=r"Cannot read 'experiments/x\.yaml'"):
        options.refuse_unknown_options(["experiments=x"])
