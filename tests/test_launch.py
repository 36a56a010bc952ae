import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from src import launch
from src.common.errors import UserError


@cache
def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(launch.CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def name_of(*overrides: str) -> str:
    """Hash of the run that these overrides make."""
    return launch.short_hash(launch.hashed_part(launch.resolved(composed(*overrides))))


def failure(*overrides: str) -> Exception:
    with pytest.raises(Exception, match=r".") as caught:
        composed(*overrides)
    return caught.value


@pytest.fixture
def in_job() -> Iterator[DictConfig]:
    """What Hydra sets up before it calls the job."""
    config = composed()
    HydraConfig.instance().set_config(config)
    yield config
    HydraConfig.instance().cfg = None


@pytest.mark.parametrize(
    "override",
    [
        "force=true",
        "logger=wandb",
        "paths.outputs=elsewhere",
        "paths.cache=elsewhere",
        "paths.data=elsewhere",
        "trainer.progress=false",
    ],
)
def test_where_files_lie_does_not_name_a_run(override: str) -> None:
    assert name_of(override) == name_of()


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "kdci.N=8",
        "kdci=none",
        "budget=smoke",
        "distill.optimizer.lr=0.05",
        "teacher.seed=1",
        "teacher.checkpoint=weights.pt",
        "substitution.rounds=3",
        "baseline.batch_size=3",
        "trainer.precision=bf16-mixed",
        "trainer.devices=2",
        "dataset=cifar10",
        "pool.num_images=5",
    ],
)
def test_what_is_computed_names_a_run(override: str) -> None:
    assert name_of(override) != name_of()


def test_moved_data_do_not_name_a_run() -> None:
    moved = ["dataset=cifar10", "dataset.root=/elsewhere", "dataset.cache_dir=/elsewhere"]
    assert name_of(*moved) == name_of("dataset=cifar10")


def test_the_vanilla_points_of_a_grid_are_one_run() -> None:
    assert name_of("kdci=none", "kdci.N=8") == name_of("kdci=none", "kdci.attention=dot")
    assert name_of("kdci=none", "seed=1") != name_of("kdci=none")


def test_the_order_of_overrides_is_irrelevant() -> None:
    assert name_of("seed=1", "kdci.N=8") == name_of("kdci.N=8", "seed=1")


def test_a_name_is_short_and_never_changes() -> None:
    assert launch.short_hash({"b": 1, "a": [2]}) == launch.short_hash({"a": [2], "b": 1})
    assert re.fullmatch(r"[0-9a-f]{12}", launch.short_hash({}))
    assert launch.short_hash({}) == "44136fa355b3"  # of "{}", so old folders are found again


def test_the_resolved_configuration_is_plain_and_without_hydra() -> None:
    plain = launch.resolved(composed("distill.epochs=7"))
    assert "hydra" not in plain
    assert plain["distill"]["scheduler"]["T_max"] == 7
    assert json.loads(json.dumps(plain)) == plain


def test_run_folders_are_named_by_choices_and_hash(in_job: DictConfig) -> None:
    folder = f"digits_dafl_backdoor/{name_of()}"
    assert launch.run_folder(in_job) == folder
    assert in_job.hydra.run.dir == f"outputs/{folder}"


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_sweep_is_named_by_its_arguments(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setenv("KDCI_SWEEP", "")
    names = []
    for arguments in (["a=1,2", flag], [flag, "a=1,2"], [flag, "a=1,3"]):
        launch.name_sweep(arguments)
        names.append(os.environ["KDCI_SWEEP"])
    assert names[0] == names[1] != names[2]


def test_a_single_run_is_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDCI_SWEEP", raising=False)
    launch.name_sweep(["kdci.N=4"])
    assert "KDCI_SWEEP" not in os.environ


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
    message = launch.explain(failure(override), [override])
    assert expected in message
    assert "\n" not in message


def test_the_nearest_key_is_sought_in_the_chosen_groups() -> None:
    overrides = ["baseline=dfnd", "baseline.num_slect=3"]
    message = launch.explain(failure(*overrides), overrides)
    assert message.endswith("did you mean 'baseline.num_select'?")


def test_other_complaints_are_one_line_without_hydra_s_advice() -> None:
    error = ValueError("Something\n  is wrong\nSet the environment variable HYDRA_FULL_ERROR=1")
    assert launch.explain(error, []) == "Something is wrong"


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
        launch.refuse_unknown_options(["seed=1", argument])
    assert expected in str(caught.value)


def test_known_options_and_other_arguments_pass() -> None:
    launch.refuse_unknown_options(["recipe=dafl_cifar10,dafl_cifar100", "-m", "recipes=x", "a=b"])


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
    with pytest.raises(SystemExit) as caught, launch.complaints():
        raise error
    assert caught.value.code == exit_code
    assert capsys.readouterr() == ("", "Error: What happened\n")


def test_a_mistake_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), launch.complaints():
        raise KeyError
    assert capsys.readouterr() == ("", "")


def test_a_failed_rank_has_said_why_and_is_only_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught, launch.complaints():
        raise launch.RankError(1, 2)
    assert caught.value.code == 2
    assert "Rank 1 failed with exit code 2" in capsys.readouterr().err


def test_a_rank_says_which_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert launch.complain("What happened", 2) == 2
    assert capsys.readouterr().err == "[rank 1] Error: What happened\n"


def test_no_process_is_started_for_a_gpu_that_is_not_there(
    in_job: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr(launch, "start_ranks", forbidden)
    config = composed("trainer=ddp", "trainer.devices=99")
    with pytest.raises(UserError, match="99 GPUs"):
        launch.run_single(config, [], tmp_path / "run")


def test_every_option_named_in_the_defaults_exists() -> None:
    config: Any = composed()
    choices = {k: v for k, v in config.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    assert choices["dataset"] == "digits"
    assert choices["dataset@pool"] == "photo_patches"
    for group, option in choices.items():
        if group not in ("recipe", "experiments") and option is not None:
            file = Path(launch.CONF, group.split("@")[0].strip("/"), f"{option}.yaml")
            assert file.is_file(), file
