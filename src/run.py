"""Entry point: ``python -m src.run [group=option] [key=value] [--multirun]``."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from src import complaint, launch, naming
from src.report.summary import is_finished


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
def _job(config: DictConfig) -> None:
    job = HydraConfig.get()
    folder, overrides = Path(job.runtime.output_dir), list(job.overrides.task)
    if job.mode == RunMode.MULTIRUN:
        launch.run_point(config, overrides, folder)
    elif is_finished(folder) and not config.force:
        launch.show(folder)
    else:
        with complaint.complaints():
            launch.run_single(config, overrides, folder)


def main() -> None:
    """Run, and say what went wrong in one line where the user can mend it."""
    os.environ["KDCI_ROOT"] = str(naming.ROOT)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises and we do the talking
    sys.argv[1:] = naming.multirun_first(sys.argv[1:])
    naming.register_resolvers()
    naming.name_sweep(sys.argv[1:])
    if launch.is_rank():
        launch.follow_parent()
    with complaint.complaints():
        complaint.refuse_unknown_options(sys.argv[1:])
    try:
        _job()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(complaint.complain(complaint.explain(error, sys.argv[1:]), 2))


if __name__ == "__main__":
    main()
