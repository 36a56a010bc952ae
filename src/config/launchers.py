"""What a sweep's launcher or sweeper needs, said before Hydra says it in a page, or much later."""

import re
import shutil
from collections.abc import Sequence
from importlib.util import find_spec

from src.common.errors import MissingExtraError, UserError

SEARCH = "search"
"""The option of ``hydra/sweeper`` whose points are chosen by what the ones before were worth."""
_GRID = r"\+*hydra/sweeper/sampler(@[\w.]+)?=.*\bgrid\b.*|.*sampler\._target_=.*GridSampler"
_LISTED = "list the values, as in kdci.N=8,16,32"
_GROUP = "hydra/launcher"
_ON_SLURM = ("submitit_slurm", "slurm", "preemptible")
_PACKAGES = dict.fromkeys(("joblib", "machine"), "hydra_joblib_launcher")
_PACKAGES |= dict.fromkeys(("submitit_local", "rehearsal", *_ON_SLURM), "hydra_submitit_launcher")
_OTHERWISE = f"leave {_GROUP} out: then the points run one after the other"


def refuse_unfit_launcher(arguments: Sequence[str], *, several: bool) -> None:
    """Refuse a launcher that cannot work here, before anything is started.

    Args:
        arguments: Those of the command line, understood.
        several: Whether they ask for a sweep.

    Raises:
        MissingExtraError: If the launcher is not installed.
        UserError: If there is no sweep whose points it could start, or no SLURM that takes them.
    """
    for argument in arguments:
        key, _, name = argument.lstrip("+").partition("=")
        plain = name.strip("'\"")
        if key == _GROUP and plain in _PACKAGES:
            _refuse_unfit(plain, several)


def refuse_unfit_sweeper(arguments: Sequence[str], *, several: bool) -> None:
    """Refuse a search that cannot work here, before anything is started.

    Args:
        arguments: Those of the command line, understood.
        several: Whether they ask for a sweep.

    Raises:
        MissingExtraError: If its sweeper is not installed.
        UserError: If there is no sweep whose points it could choose, or it shall try them all.
    """
    if not any(argument.lstrip("+") == f"hydra/sweeper={SEARCH}" for argument in arguments):
        return
    if not several:
        raise UserError(
            "Cannot use hydra/sweeper=optuna for one run: it chooses the points of a sweep; add "
            "--multirun"
        )
    if not _is_installed("hydra_optuna_sweeper"):
        raise MissingExtraError(
            "the sweeper of hydra/sweeper=optuna",
            "search",
            f"leave hydra/sweeper out and {_LISTED}",
        )
    if any(re.fullmatch(_GRID, argument) for argument in arguments):
        raise UserError(
            "Cannot use hydra/sweeper/sampler=grid with hydra/sweeper=optuna, which draws points "
            f"by a seed: a grid is a sweep without a sweeper, so leave both out and {_LISTED}; or "
            "take another sampler, such as random"
        )


def _refuse_unfit(name: str, several: bool) -> None:
    if not several:
        raise UserError(
            f"Cannot use {_GROUP}={name} for one run: it starts the points of a sweep; add "
            "--multirun"
        )
    if not _is_installed(_PACKAGES[name]):
        raise MissingExtraError(f"the launcher of {_GROUP}={name}", "cluster", _OTHERWISE)
    missing = [each for each in ("sbatch", "srun") if shutil.which(each) is None]
    if name in _ON_SLURM and missing:
        raise UserError(
            f"Expected {missing[0]} on the PATH for {_GROUP}={name}, but found none; run the "
            f"command where SLURM takes jobs, or {_OTHERWISE}"
        )


def _is_installed(package: str) -> bool:
    plugins = "hydra_plugins"
    return find_spec(plugins) is not None and find_spec(f"{plugins}.{package}") is not None
