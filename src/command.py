"""What ``python -m src.run`` does with its arguments."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from src import complaint, launch, naming
from src.common.signals import is_rank
from src.config import arguments, options


@hydra.main(config_path=str(naming.CONF), config_name="config", version_base="1.3")
def _job(config: DictConfig) -> None:
    job = HydraConfig.get()
    overrides = list(job.overrides.task)
    with complaint.complaints(sys.argv[1:]):
        if job.mode == RunMode.MULTIRUN:
            launch.run_point(overrides, Path(job.runtime.output_dir))
        else:
            launch.run_single(config, overrides)


def command() -> None:
    """Run, and say what went wrong in one line where the user can mend it."""
    os.environ["KDCI_ROOT"] = str(naming.ROOT)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises and we do the talking
    OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)
    OmegaConf.register_new_resolver("options", options.options_of, replace=True)
    if is_rank():
        launch.follow_parent()
    with complaint.complaints(sys.argv[1:]):
        if arguments.is_multirun(sys.argv[1:]):
            naming.name_sweep(sys.argv[1:])
        sys.argv[1:] = arguments.understood(sys.argv[1:])
        options.refuse_unknown_options(sys.argv[1:])
        _job()
