from pathlib import Path

import pytest

from src.common.errors import UserError
from src.common.package import CONF
from src.config import arguments, flags
from tests.compose import composed


def test_flags_come_first_with_their_values() -> None:
    given = ["baseline=cmi", "--package", "kdci", "seed=0,1", "--cfg", "job", "~distill.scheduler"]
    expected = [
        "--package",
        "kdci",
        "--cfg",
        "job",
        "baseline=cmi",
        "seed=0,1",
        "~distill.scheduler",
    ]
    assert arguments.understood(given) == expected


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--seed=1", "Unknown flag '--seed=1'; options are written without dashes: seed=1"),
        ("-kdci.N=4", "options are written without dashes: kdci.N=4"),
        ("--multirn", "Unknown flag '--multirn'; did you mean '--multirun'? (one of: --help"),
        ("-x", "Unknown flag '-x'"),
        ("--root", "; options are key=value"),
        ("--cfg", "Cannot read the command line: argument --cfg/-c: expected one argument"),
        ("--help=3", "Cannot read the command line: argument --help/-h"),
    ],
)
def test_an_unknown_flag_is_refused_with_its_cure(flag: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        arguments.understood([flag])
    assert expected in str(caught.value)


def test_flags_of_which_hydra_heeds_one_are_refused_together() -> None:
    with pytest.raises(UserError, match="Expected one of the flags --multirun and --cfg; leave"):
        arguments.understood(["-m", "seed=0,1", "--cfg", "job"])


PATHS = [
    "/data/my images",
    "/data/a=b/c",
    "/data/[old] (2)/{x}",
    "/data/it's/here",
    "/data/a, b/c",
    "~/data",
    "data/Köter/名前",
    "/data/100%&more#1",
    r"C:\images\a=b",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_arrives_as_it_was_written(path: str) -> None:
    argument = f"paths.outputs={path}"
    (understood,) = arguments.understood([argument])
    assert composed(understood).paths.outputs == path
    # Points and ranks get what has been understood already.
    assert arguments.understood([understood]) == [understood]


@pytest.mark.parametrize("name", ["epoch=4-val_acc=0.992.ckpt", "best (1).pth", "a, b.pth"])
def test_a_checkpoint_without_its_folder_arrives_as_it_was_written(name: str) -> None:
    (understood,) = arguments.understood([f"teacher.checkpoint={name}"])
    assert composed(understood).teacher.checkpoint == name
    swept = arguments.understood(["-m", "teacher.checkpoint=epoch=1.ckpt,epoch=2.ckpt"])
    assert swept[1] == "teacher.checkpoint='epoch=1.ckpt','epoch=2.ckpt'"


def test_paths_of_a_sweep_are_quoted_one_by_one() -> None:
    given = ["-m", "pool.root=/data/a=1,/data/b=2"]
    assert arguments.understood(given)[1] == "pool.root='/data/a=1','/data/b=2'"


@pytest.mark.parametrize(
    "argument",
    [
        "pool.root='/data/a=1'",
        "paths.outputs=${paths.cache}/runs",
        "dataset.mean=[0.5,0.5,0.5]",
        "seed=1=2",
        "seed=0,1",
        "hydra/launcher=basic",
    ],
)
def test_other_arguments_are_left_alone(argument: str) -> None:
    assert arguments.understood([argument]) == [argument]


@pytest.mark.parametrize("flag", ["--config-dir", "--config-path", "--config-name"])
def test_a_flag_for_which_a_variable_was_empty_is_refused(flag: str) -> None:
    with pytest.raises(UserError, match=f"Expected a value of {flag}, but got nothing"):
        arguments.understood([f"{flag}=", "seed=1"])


def test_home_is_expanded_in_paths_of_hydra_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = ["--config-dir=~/own", "--config-path=~", "--package=~", "hydra.sweep.dir=~/s"]
    expected = ["--config-dir=/home/me/own", "--config-path=/home/me", "--package=~"]
    assert arguments.understood(given) == [*expected, "hydra.sweep.dir=/home/me/s"]
    for flag in ("--config-di", "-cp", "-cd", "++hydra.run.dir"):
        assert arguments.understood([f"{flag}=~/own"]) == [f"{flag}=/home/me/own"]
    assert arguments.understood(["-cd", "~"]) == ["-cd", "/home/me"]
    for flag in ("--config-dir", "-cd"):
        assert arguments.understood(["seed=1", flag, "~/own"]) == [flag, "/home/me/own", "seed=1"]
        assert arguments.understood([flag, "own", "~a.b"]) == [flag, "own", "~a.b"]


@pytest.mark.parametrize("key", ["hydra.sweeper.params", "+hydra.sweeper.params.seed"])
def test_points_are_typed_as_values(key: str) -> None:
    with pytest.raises(UserError, match=r"Cannot use '.*=0,1': .*, as in seed=0,1; leave hydra"):
        arguments.understood(["-m", f"{key}=0,1"])
    arguments.understood(["-m", "hydra.sweeper.params_of=1", "~hydra.sweeper.params.seed"])
    with pytest.raises(UserError, match=r"Cannot use '~.*params=1': give hydra\.mode=RUN"):
        arguments.understood(["-m", "~hydra.sweeper.params=1"])


def test_a_node_replaces_another() -> None:
    node = "{_target_:torch.optim.lr_scheduler.StepLR,step_size:3}"
    understood = arguments.understood([f"distill.scheduler={node}"])
    scheduler = composed(*understood).distill.scheduler
    assert scheduler == {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3}
    assert arguments.understood(understood) == understood


def test_values_of_a_node_are_merged_into_it() -> None:
    understood = arguments.understood(["distill.optimizer={lr:0.5}"])
    optimizer = composed(*understood).distill.optimizer
    assert (optimizer.lr, optimizer.momentum) == (0.5, 0.9)


def test_nodes_can_be_swept_over() -> None:
    node = "distill.scheduler={_target_:a.B},{_target_:c.D}"
    assert arguments.understood(["-m", node]) == ["-m", "~distill.scheduler", f"+{node}"]


def test_home_is_expanded_in_every_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from src.naming import resolved

    monkeypatch.setenv("HOME", str(tmp_path))
    given = ["paths.cache=~/c", "teacher.checkpoint=~", "paths.outputs=~x/y"]
    plain = resolved(composed(*arguments.understood(given)))
    assert plain["paths"]["cache"] == f"{tmp_path}/c"
    assert plain["teacher"]["checkpoint"] == str(tmp_path)
    assert plain["paths"]["outputs"] == "~x/y"


def test_a_search_has_our_options() -> None:
    typed = ["hydra/sweeper=optuna", "hydra/launcher=joblib"]
    assert arguments.understood(typed) == ["hydra/sweeper=search", "hydra/launcher=joblib"]
    assert arguments.understood(["hydra/sweeper='optuna'"]) == ["hydra/sweeper=search"]


@pytest.mark.parametrize("flag", ["-m", "--multirun", "--multi", "--mu"])
def test_a_sweep_is_asked_for_in_any_of_hydra_s_flags(flag: str) -> None:
    assert flags.is_multirun(["seed=0,1", flag])
    assert not flags.is_multirun(["seed=0,1", "a=-m"])


@pytest.mark.parametrize("mode", ["hydra.mode=MULTIRUN", "+hydra.mode=2", "hydra.mode='RUN'"])
def test_a_mode_is_said_by_a_flag(mode: str) -> None:
    with pytest.raises(UserError, match=r"expected --multirun for a sweep, or hydra\.mode=RUN"):
        arguments.understood([mode])
    assert arguments.understood(["hydra.mode=RUN"]) == ["hydra.mode=RUN"]
    with pytest.raises(UserError, match=r"--multirun or hydra\.mode=RUN, but got both; leave one"):
        arguments.understood(["seed=0,1", "-m", "hydra.mode=RUN"])


def test_the_same_is_asked_in_other_words() -> None:
    folder = str(Path("conf").absolute())
    for where in (["-cd", "conf"], ["--config-dir=conf/"], [f"--config-di={folder}"]):
        typed = ["-m", "a=1,2", "-cn", "mine", *where]
        asked = flags.asked(arguments.understood(typed))
        assert asked == ["mine", folder, "a=1,2"]
        assert asked == flags.asked(arguments.understood(["a=1,2", *where, "-cn=mine"]))
    assert flags.asked(["-m", "b=1", "a=1"]) == ["b=1", "a=1"]


def test_a_flag_s_value_is_no_plug_in() -> None:
    assert arguments.plugins_of(["--info", "plugins"]) == []
    assert arguments.plugins_of(["++plugins=[mylab]"]) == ["mylab"]


def test_where_a_configuration_is_can_be_handed_on() -> None:
    typed = [
        "-cn",
        "mine",
        "--config-dir=a b",
        "-cp",
        "/x",
        "seed=1",
    ]
    handed_on = flags.composing(arguments.understood(typed))
    assert handed_on == [
        "--config-name=mine",
        "--config-path=/x",
        "--config-dir=a b",
    ]
    assert flags.composing(arguments.understood([*handed_on, "seed=2"])) == handed_on
    assert flags.composing(["-m", "seed=1"]) == []


def test_the_users_own_folder_is_one_of_those_with_options(tmp_path: Path) -> None:
    (tmp_path / "student").mkdir()
    (tmp_path / "student/mine.yaml").touch()
    for typed in ([f"--config-dir={tmp_path}"], ["seed=1", "-cd", str(tmp_path)]):
        assert flags.own_folders(typed) == [tmp_path]
        assert arguments.folders_of(typed) == [CONF, tmp_path]
        assert tmp_path / "student/mine.yaml" in arguments.files_of(typed)
    assert flags.own_folders(["--config-dir=conf"]) == [Path("conf").absolute()]
    assert flags.own_folders(["-cp", "x"]) == []
    with pytest.raises(UserError, match=r"Expected --config-dir to be a folder, but got '.*/x'"):
        flags.own_folders(["--config-dir=x"])
    with pytest.raises(UserError, match="Expected --config-dir to be a folder"):
        flags.own_folders([f"--config-dir={__file__}"])
    assert flags.replaces_ours(["-cp", "x"])


def test_what_starts_one_run_is_told_from_what_shows_something() -> None:
    for typed in ([], ["seed=1"], ["--run"], ["seed=1", "--config-name", "mine"]):
        assert flags.is_one_run(typed)
    for typed in (["-m"], ["--cfg", "job"], ["--help"], ["--info"], ["-sc"], ["hydra.mode=RUN"]):
        assert not flags.is_one_run(typed)
