from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf.errors import InterpolationResolutionError

from src import complaint
from src.common.errors import RankError, UserError
from tests.compose import composed


def failure(*overrides: str) -> Exception:
    with pytest.raises(Exception, match=r".") as caught:
        composed(*overrides)
    return caught.value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("kdci=backdor", "Unknown option 'kdci=backdor'; did you mean 'backdoor'? (one of: "),
        ("dataset=cifra10", "Unknown option 'dataset=cifra10'; did you mean 'cifar10'? (one of: "),
        ("student=resnet19", "Unknown option 'student=resnet19'; did you mean 'resnet18'?"),
        ("kdci.n=3", "Unknown configuration key 'kdci.n'; did you mean 'kdci.N'?"),
        ("distil.epochs=3", "Unknown configuration key 'distil.epochs'; did you mean 'distill.ep"),
        ("baseline.batch_szie=3", "'baseline.batch_szie'; did you mean 'baseline.batch_size'?"),
        ("zzzzzz=3", "Unknown configuration key 'zzzzzz'"),
    ],
)
def test_hydra_s_complaints_name_the_nearest(override: str, expected: str) -> None:
    message = complaint.explain(failure(override), [override])
    assert expected in message
    assert "\n" not in message


def test_the_nearest_key_is_sought_in_the_chosen_groups() -> None:
    overrides = ["baseline=dfnd", "baseline.num_slect=3"]
    message = complaint.explain(failure(*overrides), overrides)
    assert message.endswith("did you mean 'baseline.num_select'?")


def test_other_complaints_are_one_line_without_hydra_s_advice() -> None:
    error = ValueError("Something\n  is wrong\nSet the environment variable HYDRA_FULL_ERROR=1")
    assert complaint.explain(error, []) == "Something is wrong"


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
        complaint.refuse_unknown_options(["seed=1", argument])
    assert expected in str(caught.value)


def test_known_options_and_other_arguments_pass() -> None:
    complaint.refuse_unknown_options(
        ["recipe=dafl_cifar10,dafl_cifar100", "-m", "recipes=x", "a=b"]
    )


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (UserError("What\n  happened"), 2),
        (FloatingPointError("What happened"), 1),
        (InterpolationResolutionError("What happened"), 2),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_an_exit_code(
    error: Exception, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise error
    assert caught.value.code == exit_code
    assert capsys.readouterr() == ("", "Error: What happened\n")


def test_a_mistake_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), complaint.complaints():
        raise KeyError
    assert capsys.readouterr() == ("", "")


def test_a_failed_rank_has_said_why_and_is_only_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise RankError(1, 2)
    assert caught.value.code == 2
    assert "Rank 1 failed with exit code 2" in capsys.readouterr().err


def test_a_rank_says_which_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert complaint.complain("What happened", 2) == 2
    assert capsys.readouterr().err == "[rank 1] Error: What happened\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program's folder with a small configuration of its own."""
    (tmp_path / "conf" / "kdci").mkdir(parents=True)
    (tmp_path / "conf" / "kdci" / "none.yaml").write_text("name: none\n")
    (tmp_path / "conf" / "config.yaml").write_text(
        "defaults:\n- _self_\n- kdci: none\n- optional experiments: null\nseed: 1\n"
        f"hydra:\n  searchpath: ['file://{tmp_path}']\n"
    )
    (tmp_path / "experiments").mkdir()
    monkeypatch.setattr(complaint, "ROOT", tmp_path)
    monkeypatch.setattr(complaint, "CONF", tmp_path / "conf")
    monkeypatch.setitem(complaint._OPTIONAL, "experiments", tmp_path / "experiments")
    return tmp_path


def hydra_s_line(folder: Path, *overrides: str) -> str:
    """How the program explains what Hydra says of the overrides."""
    with (
        pytest.raises(complaint.COMPOSITION_ERRORS) as caught,
        initialize_config_dir(str(folder / "conf"), version_base="1.3"),
    ):
        compose("config", list(overrides))
    message = complaint.explain(caught.value, overrides)
    assert "\n" not in message
    return message


HEADER = b"# @package _global_\n"
BROKEN: list[tuple[bytes, str]] = [
    (b"seed:\n\ta: 3\n", "line 3, column 1: while scanning for the next token, found character"),
    (b"seed: [1, 2\n", "line 3, column 1: while parsing a flow sequence, expected ',' or ']'"),
    (b"a: \xe9\nseed: \xff\n", "line 2, column 4: expected UTF-8, but got the byte 0xe9"),
    (b"seed: 1\nkdci: \x00\n", "line 3, column 7: character #x0000"),
    (b"seed: *nowhere\n", "line 2, column 7: found undefined alias 'nowhere'"),
    (b"seed: 1\n---\nseed: 2\n", "line 3, column 1: expected a single document"),
    (b"- 1\n- 2\n", "expected keys and values (`key: value`), but got a list"),
]


@pytest.mark.parametrize(("content", "expected"), BROKEN)
@pytest.mark.parametrize("is_chosen", [True, False])
def test_a_broken_file_is_named_with_its_line(
    content: bytes, expected: str, is_chosen: bool, folder: Path
) -> None:
    name = "experiments/x.yaml" if is_chosen else "conf/kdci/none.yaml"
    (folder / name).write_bytes(HEADER + content)
    message = hydra_s_line(folder, *(["experiments=x"] if is_chosen else []))
    assert expected in message
    assert name.removeprefix("conf/") in message


@pytest.mark.parametrize("content", [each[0] for each in BROKEN if b"\x00" not in each[0]])
def test_a_broken_experiment_is_found_before_hydra_reads_it(content: bytes, folder: Path) -> None:
    (folder / "experiments" / "x.yaml").write_bytes(HEADER + content)
    with pytest.raises(UserError, match=r"'experiments/x\.yaml'"):
        complaint.refuse_unknown_options(["experiments=x"])


def test_a_key_that_stands_twice_is_named(folder: Path) -> None:
    (folder / "experiments" / "x.yaml").write_bytes(HEADER + b"seed: 1\nseed: 2\n")
    message = hydra_s_line(folder, "experiments=x")
    assert "'experiments/x.yaml', line 3, column 1: while constructing a mapping" in message
    assert "found duplicate key seed" in message


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
        complaint.refuse_unknown_options(["experiments=x"])
    assert expected in str(caught.value)


def test_a_hint_is_given_although_a_file_is_broken(folder: Path) -> None:
    (folder / "experiments" / "x.yaml").write_text("seed: [")
    error = failure("sede=1")
    overrides = ["experiments=x", "sede=1"]
    assert complaint.explain(error, overrides).endswith("'sede'; did you mean 'seed'?")
    (folder / "conf" / "config.yaml").write_text("seed: [")
    assert complaint.explain(error, overrides) == "Unknown configuration key 'sede'"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("kdci=null", "'kdci=null'; for a run without compensation use kdci=none (one of: "),
        ("~kdci", "Cannot remove the group 'kdci': every run needs one; for a run without comp"),
        ("~kdci=backdoor", "Cannot remove the group 'kdci'"),
        ("kdci=[none]", "Unknown option 'kdci=[none]'"),
        ("kdci=", "Unknown option 'kdci='"),
        ("dataset=null", "Unknown option 'dataset=null' (one of: cifar10, "),
        ("dataset=3", "Unknown option 'dataset=3'"),
        ("dataset@pool=null", "Unknown option 'dataset@pool=null'"),
        ("~dataset", "Cannot remove the group 'dataset': every run needs one (one of: cifar10, "),
        ("~dataset@pool", "Cannot remove the group 'dataset@pool'"),
        ("student={a: 1}", "Unknown option 'student={a: 1}'"),
        ("teacher=null", "Unknown option 'teacher=null'"),
        ("budget=true", "Unknown option 'budget=true'"),
        ("=3", "Cannot read the argument '=3': expected key=value"),
    ],
)
def test_a_group_without_an_option_is_refused(argument: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        complaint.refuse_unknown_options(["seed=1", argument])
    assert str(caught.value).startswith(expected) or expected in str(caught.value)


def test_options_and_keys_within_groups_pass() -> None:
    complaint.refuse_unknown_options(
        ["kdci=none,backdoor", "~kdci.N", "kdci.N=3", "distill.scheduler=null", "~recipe", "-m"]
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=[1,2", "Cannot read the argument 'seed=[1,2' (no viable alternative"),
        ("seed", "Cannot read the argument 'seed' (Error parsing override"),
        ("~distil", "Unknown configuration key 'distil'; did you mean 'distill'?"),
        ("~kdci.N=17", "The value of 'kdci.N' is 16 and not 17."),
    ],
)
def test_what_hydra_cannot_read_is_shown(override: str, expected: str) -> None:
    message = complaint.explain(failure(override), [override])
    assert expected in message
    assert "https://" not in message


def test_an_interpolation_is_named_with_its_key() -> None:
    from omegaconf import OmegaConf

    config: Any = OmegaConf.create({"a": {"b": "${nowhere}"}})
    with pytest.raises(complaint.COMPOSITION_ERRORS) as caught:
        OmegaConf.to_container(config, resolve=True)
    line = complaint.explain(caught.value, [])
    assert line == "Interpolation key 'nowhere' not found (in 'a.b')"


def test_bytes_of_an_unknown_file_are_told_without_its_name(folder: Path) -> None:
    with pytest.raises(UnicodeDecodeError) as caught:
        b"\xff".decode()
    assert "expected UTF-8" in complaint.explain(caught.value, [])
