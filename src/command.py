"""What ``python -m src.run`` does with its arguments."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src import complaint, launch, naming, point, ranks, sweep
from src.common import package
from src.common.errors import UserError
from src.common.parent import follow_parent
from src.common.plugins import conf_of, refuse_unfit_plugins
from src.config import arguments, flags, launchers, options, points
from src.config.reach import guard_hydra

_PLUGINS, _COMPOSING = "KDCI_PLUGINS", "KDCI_COMPOSING"  # for launchers with workers of their own


def _allowed() -> list[str]:
    """The plug-ins that the command line allows."""
    allowed: list[str] = json.loads(os.environ.get(_PLUGINS, "[]"))
    return allowed


# On import: launchers with workers of their own compose in these as well.
guard_hydra()
points.guard_hydra()


@hydra.main(config_path=str(package.CONF), config_name="config", version_base="1.3")
def _job(config: DictConfig) -> float | None:
    """What a search is told of a point; None where there is none, or the point has failed."""
    job = HydraConfig.get()
    handed_on: list[str] = json.loads(os.environ.get(_COMPOSING, "[]"))
    handed_on += arguments.as_typed(job.overrides.task)
    is_point = job.mode == RunMode.MULTIRUN
    # A launcher passes on what was raised in its worker, but not what the worker has said.
    with complaint.complaints(sys.argv[1:], passing=UserError if is_point else ()):
        arguments.require_typed(config.get("plugins"), _allowed())
        if is_point:
            ranks.refuse_sweep_of_ranks()
            naming.require_sweep()
            os.chdir(job.runtime.cwd)  # paths are relative to it, also with hydra.job.chdir=true
            record = Path(job.runtime.output_dir)
            point.run_point(handed_on, record)
            return point.value_of(record, config.search.objective)
        if flags.is_one_run(sys.argv[1:]) and ranks.handed_down() is None:
            sweep.refuse_one_run(job)
        launch.run_single(config, handed_on)
    return None


@ranks.ending_at_once()
def command() -> None:
    """Run, and say what went wrong in one line where the user can mend it."""
    os.environ["KDCI_ROOT"] = str(package.ROOT)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises and we do the talking
    OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)
    OmegaConf.register_new_resolver("digest", point.digest, replace=True)
    follow_parent()
    ranks.prepare_rank()
    with complaint.complaints(sys.argv[1:]):
        sys.argv[1:] = arguments.understood(sys.argv[1:])
        if flags.is_multirun(sys.argv[1:]):
            ranks.refuse_sweep_of_ranks()
            naming.name_sweep(flags.asked(sys.argv[1:]))
            os.environ[sweep.SWEEP_PROCESS] = str(os.getpid())
        _prepare(sys.argv[1:])
    with complaint.complaints(sys.argv[1:]), sweep.reported():
        _job()


def _prepare(typed: list[str]) -> None:
    """Refuse what Hydra would misunderstand, and show it the plug-ins."""
    plugins = arguments.plugins_of(typed)
    if plugins and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # for `kdci`; `python -m` does the same
    refuse_unfit_plugins(plugins)
    os.environ[_PLUGINS] = json.dumps(plugins)
    os.environ[_COMPOSING] = json.dumps(flags.composing(typed))
    conf = conf_of(plugins)
    searched = arguments.search_path(conf, typed)
    folders = [*conf, *flags.own_folders(typed)]
    options.refuse_shadowed_options(folders)
    several = flags.is_multirun(typed)
    if several:
        points.refuse_contradictions(typed)
        # Once more understood: a setting that a pattern has found is looked at late, too.
        typed = arguments.understood(points.without_patterns(typed, folders))
    else:
        points.refuse_patterns(typed)
    options.refuse_unknown_options(typed, folders)
    launchers.refuse_unfit_launcher(typed, several=several)
    launchers.refuse_unfit_sweeper(typed, several=several)
    sys.argv[1:] = [*typed, *searched]
    resolver = partial(options.options_of, more=folders)
    OmegaConf.register_new_resolver("options", resolver, replace=True)
