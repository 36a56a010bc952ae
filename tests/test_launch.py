import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src import launch, naming
from src.common import package
from src.common.errors import UserError
from src.common.files import lock
from src.common.signals import Interrupted
from src.config.check import check
from src.pipeline.content import contents_of, sources_of
from src.pipeline.identify import identify
from src.report.summary import FILE_NAME, read_summary, write_summary
from tests.compose import composed
from tests.report.conftest import make_summary as make_summary
from tests.smoke import Smoke


@pytest.fixture
def in_job() -> Iterator[DictConfig]:
    """What Hydra sets up before it calls the job."""
    config = composed()
    HydraConfig.instance().set_config(config)
    yield config
    HydraConfig.instance().cfg = None


def test_no_process_is_started_for_a_gpu_that_is_not_there(
    in_job: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: Any) -> None:
        raise AssertionError("processes were started")

    monkeypatch.setattr(launch, "start_ranks", forbidden)
    outputs = f"paths.outputs={tmp_path / 'outputs'}"
    config = composed("trainer=ddp", "trainer.devices=16", outputs)
    with pytest.raises(UserError, match="16 GPUs"):
        launch.run_single(config, [])
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_of_the_user_s_own_folder_has_its_name(
    in_job: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own/recipe").mkdir(parents=True)
    (tmp_path / "own/recipe/mine.yaml").write_text("# @package _global_\n")
    names = []

    def found(_: Any, name: naming.RunName, __: Any) -> None:
        names.append(name.recipe)
        raise UserError("enough")

    monkeypatch.setattr("src.pipeline.identify.find", found)
    plain = naming.resolved(composed("baseline=dafl", "trainer.accelerator=cpu"))
    choices = {**HydraConfig.get().runtime.choices, "recipe": "mine"}
    for flags in ([], [f"--config-dir={tmp_path / 'own'}"]):
        with pytest.raises(UserError, match="enough"):
            launch._check_and_run(plain, choices, flags, None)
    assert names == [None, "mine"]


@pytest.mark.parametrize("images", [10_000, 200])
def test_a_finished_run_says_that_it_was_not_looked_into_again(
    in_job: DictConfig,
    smoke: Smoke,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    images: int,
) -> None:
    tried: list[Path] = []
    monkeypatch.setattr("src.pipeline.identify.Inception", tried.append)
    path, file = smoke.default.folder / "summary.json", tmp_path / "weights.pth"
    file.touch()
    before, weights = path.read_bytes(), str(file)
    asked = [f"fid.weights={weights}", f"fid.images={images}"]
    config = composed(*smoke.overrides(smoke.default.outputs, *asked))
    HydraConfig.instance().set_config(config)
    launch.run_single(config, [])
    assert [record.message for record in caplog.records] == [
        "The run had finished without these fid.weights and fid.images and was not looked into "
        "again; force=true runs it again"
    ]
    assert path.read_bytes() == before
    assert tried == [file]
    # A file that changes has it tried again.
    assert weights in sources_of(check(naming.resolved(config)))


KDCI = {"project": "kdci", "mode": "online", "entity": None, "tags": []}


@pytest.mark.parametrize(
    ("asked", "had", "said"),
    [
        (KDCI, None, "--wandb kdci`"),
        (KDCI | {"mode": None}, None, "--wandb kdci --wandb-mode offline`"),
        (KDCI, KDCI | {"project": "other"}, "--wandb kdci`"),
        (KDCI, KDCI | {"mode": "disabled"}, "--wandb kdci`"),
        (KDCI | {"mode": "offline"}, None, "--wandb kdci --wandb-mode offline`"),
        (KDCI | {"entity": "team"}, KDCI, "`WANDB_ENTITY=team python -m src.report"),
        (KDCI, KDCI, None),
        (KDCI | {"mode": "disabled"}, None, None),
        (None, None, None),
        (None, KDCI, None),
    ],
)
def test_a_finished_run_says_that_it_was_not_sent_to_wandb(
    make_summary: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    asked: dict[str, Any] | None,
    had: dict[str, Any] | None,
    said: str | None,
) -> None:
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "dryrun")  # as W&B called offline, where no mode is asked for

    def options(node: dict[str, Any] | None) -> dict[str, Any]:
        return {"wandb": node}

    monkeypatch.setenv("KDCI_SWEEP", "5eed5")
    write_summary(make_summary(80.0, config={"logger": options(had)}), tmp_path)
    launch._show({"fid": {"weights": None}, "logger": options(asked)}, tmp_path)
    assert [str(said) in line for line in caplog.messages] == ([True] if said else [])


def test_every_option_named_in_the_defaults_exists() -> None:
    config: Any = composed()
    choices = {k: v for k, v in config.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    assert choices["dataset"] == "digits"
    assert choices["dataset@pool"] == "photo_patches"
    for group, option in choices.items():
        if group not in ("recipe", "experiments") and option is not None:
            file = Path(package.CONF, group.split("@")[0].strip("/"), f"{option}.yaml")
            assert file.is_file(), file


@pytest.mark.parametrize(
    ("overrides", "environment", "expected"),
    [
        (["trainer.devices=2"], {"KDCI_POINT": "x"}, [2]),
        (["trainer=ddp"], {"KDCI_POINT": "x"}, [2]),
        ([], {}, []),
        (["trainer=ddp_cpu"], {"KDCI_POINT": "x"}, []),
        (["trainer.devices=two"], {"KDCI_POINT": "x"}, []),
        (["trainer=ddp"], {"KDCI_POINT": "x", "TORCHELASTIC_RUN_ID": "x"}, []),
    ],
)
def test_points_of_a_sweep_take_their_gpus_before_anything_asks_for_cuda(
    overrides: list[str],
    environment: dict[str, str],
    expected: list[int],
    monkeypatch: pytest.MonkeyPatch,
    in_job: DictConfig,
    tmp_path: Path,
) -> None:
    taken: list[int] = []

    def take(count: int) -> AbstractContextManager[None]:
        taken.append(count)
        return nullcontext()

    def first_to_ask(_: Any) -> None:
        assert taken == expected
        raise UserError("checked")

    monkeypatch.setattr(launch, "own_gpus", take)
    monkeypatch.setattr(launch, "check", first_to_ask)
    for name, value in environment.items():
        monkeypatch.setenv(name, value if name != "KDCI_POINT" else str(tmp_path / value))
    config = composed(*overrides, f"paths.cache={tmp_path}")
    HydraConfig.instance().set_config(config)
    with pytest.raises(UserError, match="checked"):
        launch.run_single(config, [])


def test_the_program_that_takes_gpus_has_not_imported_torch() -> None:
    code = "import sys, src.command; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=package.ROOT, check=True)


@pytest.mark.parametrize("is_held", [True, False])
def test_a_stopped_launcher_leaves_the_record_of_a_run_that_goes_on(
    is_held: bool, make_summary: Any, tmp_path: Path
) -> None:
    """As one that has only waited for it."""
    folder = tmp_path / "run"
    write_summary(make_summary(status="running"), folder)

    def stop() -> None:
        with launch._failure_recorded(folder):
            raise Interrupted(15)

    with lock(folder) if is_held else nullcontext(), pytest.raises(Interrupted):
        stop()
    status = read_summary(folder / FILE_NAME)["status"]
    assert status == ("running" if is_held else "interrupted")


def test_a_rank_of_another_configuration_does_not_work_in_the_folder() -> None:
    config = check(naming.resolved(composed("trainer.accelerator=cpu")))
    contents = contents_of(config)
    identity = identify(config, torch.device("cpu"), contents)
    launch._refuse_other(config, Path("outputs/x", identity.run), contents)
    other = check(naming.resolved(composed("trainer.accelerator=cpu", "seed=7")))
    with pytest.raises(UserError, match=f"the run of 'outputs/x/{identity.run}', but its config"):
        launch._refuse_other(other, Path("outputs/x", identity.run), contents)
    teacher = check(naming.resolved(composed("trainer.accelerator=cpu", "task=teacher")))
    launch._refuse_other(teacher, Path("outputs/x", identity.teacher[:12]), contents)
