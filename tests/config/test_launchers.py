import shutil

import pytest

from src.common.errors import MissingExtraError, UserError
from src.common.package import CONF
from src.config import launchers
from src.config.launchers import refuse_unfit_launcher, refuse_unfit_sweeper
from tests.compose import composed

OURS = sorted(path.stem for path in (CONF / "hydra" / "launcher").glob("*.yaml"))
STOCK = ["joblib", "submitit_local", "submitit_slurm"]


@pytest.mark.parametrize("name", [*OURS, *STOCK])
def test_a_launcher_that_is_not_installed_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError) as caught:
        refuse_unfit_launcher(["-m", f"hydra/launcher={name}"], several=True)
    assert str(caught.value) == (
        f"Expected the launcher of hydra/launcher={name} to be installed; run `pip install -e "
        "'.[cluster]'` in the program's folder, or leave hydra/launcher out: then the points run "
        "one after the other"
    )


def test_one_run_needs_no_launcher() -> None:
    with pytest.raises(UserError, match=r"hydra/launcher=slurm for one run: .* add --multirun"):
        refuse_unfit_launcher(["hydra/launcher=slurm"], several=False)


@pytest.mark.parametrize("found", ["", "sbatch"])
def test_slurm_is_missed_before_anything_is_handed_to_it(
    found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda _: object())
    monkeypatch.setattr(shutil, "which", lambda name: name if name == found else None)
    missing = "srun" if found else "sbatch"
    for name in ("slurm", "preemptible", "submitit_slurm"):
        with pytest.raises(UserError, match=f"Expected {missing} on the PATH"):
            refuse_unfit_launcher([f"hydra/launcher={name}"], several=True)
        with pytest.raises(UserError, match=f"Expected {missing} on the PATH"):
            refuse_unfit_launcher([f"hydra/launcher='{name}'"], several=True)
    refuse_unfit_launcher(["hydra/launcher=rehearsal"], several=True)


def test_other_launchers_are_left_to_hydra() -> None:
    refuse_unfit_launcher(["hydra/launcher=basic", "hydra/launcher=ray"], several=False)


@pytest.mark.parametrize("name", OURS)
def test_our_options_fit_the_launchers(name: str) -> None:
    pytest.importorskip(f"hydra_plugins.{launchers._PACKAGES[name]}")
    launcher = composed(f"hydra/launcher={name}", "trainer=ddp").hydra.launcher
    expected = {"slurm": 2, "preemptible": 2, "rehearsal": 64}.get(name)
    assert launcher.get("gpus_per_node") == expected


def test_a_search_needs_its_sweeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError) as caught:
        refuse_unfit_sweeper(["-m", "hydra/sweeper=search"], several=True)
    assert str(caught.value) == (
        "Expected the sweeper of hydra/sweeper=optuna to be installed; run `pip install -e "
        "'.[search]'` in the program's folder, or leave hydra/sweeper out and list the values, as "
        "in kdci.N=8,16,32"
    )
    refuse_unfit_sweeper(["-m", "hydra/sweeper=ax"], several=True)  # left to Hydra
    monkeypatch.setattr(launchers, "find_spec", lambda _: object())
    refuse_unfit_sweeper(["-m", "hydra/sweeper=search"], several=True)


def test_one_run_cannot_be_a_search() -> None:
    with pytest.raises(UserError, match=r"hydra/sweeper=optuna for one run: .* add --multirun"):
        refuse_unfit_sweeper(["hydra/sweeper=search"], several=False)


@pytest.mark.parametrize(
    "grid",
    [
        "=grid",
        "='grid'",
        "@hydra.sweeper.sampler=grid",
        "=random,grid",
        "=choice(grid)",
        "._target_=optuna.samplers.GridSampler",
    ],
)
def test_a_search_is_no_grid(grid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda _: object())
    search = ["-m", "hydra/sweeper=search"]
    with pytest.raises(UserError, match=r"sampler=grid .* leave both out and list the values, as"):
        refuse_unfit_sweeper([*search, f"hydra/sweeper/sampler{grid}"], several=True)
    refuse_unfit_sweeper([*search, "hydra/sweeper/sampler=random"], several=True)
