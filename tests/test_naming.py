import json
import os
import re

import pytest

from src import naming
from src.common.files import content_hash
from tests.compose import composed, plain


def name_of(*overrides: str) -> str:
    """Hash of the run that these overrides make."""
    return naming.config_hash(plain(*overrides))


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
    config = plain("budget=smoke")
    assert re.fullmatch(r"[0-9a-f]{12}", naming.config_hash(config))
    assert naming.config_hash(dict(reversed(config.items()))) == naming.config_hash(config)
    # The first digits of the content's hash, so that old folders are found again.
    assert content_hash(naming.hashed_part(config)).startswith(naming.config_hash(config))
    assert content_hash({}).startswith("44136fa355b3")


def test_the_resolved_configuration_is_plain_and_without_hydra() -> None:
    resolved = plain("distill.epochs=7")
    assert "hydra" not in resolved
    assert resolved["distill"]["scheduler"]["T_max"] == 7
    assert json.loads(json.dumps(resolved)) == resolved


def test_run_folders_are_named_by_choices_and_hash() -> None:
    config = composed()
    assert naming.run_name("distill", config.hydra.runtime.choices) == "digits_dafl_backdoor"
    assert config.hydra.run.dir == f"outputs/digits_dafl_backdoor/{name_of()}"


def test_teachers_have_folders_of_their_own() -> None:
    config = composed("task=teacher")
    folder = f"outputs/teacher_digits_convnet_m/{name_of('task=teacher')}"
    assert config.hydra.run.dir == folder


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_sweep_is_named_by_its_arguments(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    monkeypatch.setenv("KDCI_SWEEP", "")
    names = []
    for arguments in (["a=1,2", flag], [flag, "a=1,2"], [flag, "a=1,3"]):
        naming.name_sweep(arguments)
        names.append(os.environ["KDCI_SWEEP"])
    assert names[0] == names[1] != names[2]


def test_a_single_run_is_no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDCI_SWEEP", raising=False)
    naming.name_sweep(["kdci.N=4"])
    assert "KDCI_SWEEP" not in os.environ


def test_the_flag_of_a_sweep_may_stand_anywhere() -> None:
    arguments = ["baseline=cmi", "-m", "seed=0,1"]
    assert naming.multirun_first(arguments) == ["-m", "baseline=cmi", "seed=0,1"]
