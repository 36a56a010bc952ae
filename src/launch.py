"""How runs are started: here, in several ranks, or as points of a sweep."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.common.errors import RankError, UserError
from src.naming import config_hash, resolved, run_name
from src.report.console import console
from src.report.summary import FILE_NAME, read_summary, write_summary
from src.report.table import run_table
from src.schema import TrainerOptions, check

_log = logging.getLogger(__name__)
POINT = "point.json"
_PARENT = "KDCI_PARENT"


def is_rank() -> bool:
    """Whether this process is one of several, started by :func:`start_ranks`."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def follow_parent() -> None:
    """End this rank soon after the process that started it, which may die without a word."""
    # Asked of the system here, the parent might be somebody else already.
    parent = os.environ.get(_PARENT)
    if parent is None:  # another launcher's rank
        return

    def watch() -> None:
        while str(os.getppid()) == parent:
            time.sleep(1)
        os._exit(1)  # the main thread may wait for another rank for ever

    Thread(target=watch, daemon=True).start()


def start_ranks(count: int, overrides: Sequence[str], folder: Path) -> None:
    """Run this program in ``count`` processes that find each other; return when all are done.

    All ranks exist before the first decision. Lightning's own launcher would start them at the
    first fit and run the whole program, sweep included, again in each.

    Raises:
        RankError: If a rank failed; the others were stopped.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=folder.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    os.environ[_PARENT] = str(os.getpid())
    own = [f"hydra.run.dir={folder}", "hydra.output_subdir=null"]
    try:
        elastic_launch(launch, sys.executable)("-m", "src.run", *overrides, *own)
    except ChildFailedError as error:
        first_rank, failure = error.get_first_failure()
        raise RankError(first_rank, failure.exitcode) from error


def run_single(config: DictConfig, overrides: Sequence[str], folder: Path) -> None:
    """Check the configuration, then run it here, or in several processes."""
    plain = resolved(config)
    names = HydraConfig.get().runtime.choices
    started = (folder / FILE_NAME).exists()
    try:
        checked = check(plain)
        _require_devices(checked.trainer)
    except UserError:
        if not started and not is_rank():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if checked.trainer.devices > 1 and not is_rank():
        with _failure_recorded(folder):
            start_ranks(checked.trainer.devices, overrides, folder)
    else:
        # Brings torch and Lightning, which a skipped run is spared.
        from src.pipeline.run import RunName, run, run_teacher

        name = RunName(
            dataset=str(names["dataset"]),
            baseline=str(names["baseline"]),
            config_hash=config_hash(plain),
            sweep=os.environ.get("KDCI_SWEEP"),
        )
        if checked.task == "teacher":
            run_teacher(checked, folder)
        else:
            run(checked, folder, name)
    if not is_rank() and checked.task == "distill":
        show(folder)


def _require_devices(options: TrainerOptions) -> None:
    """Refuse more processes than there are devices before any is started."""
    from src.common.device import device_of  # brings torch, which a skipped run is spared

    device_of(options.accelerator, options.devices)


@contextmanager
def _failure_recorded(folder: Path) -> Iterator[None]:
    """Ranks that were stopped cannot say so; correct the summary that they left as running."""
    try:
        yield
    except RankError as error:
        path = folder / FILE_NAME
        summary: Any = json.loads(path.read_text()) if path.exists() else {}
        if summary.get("status") == "running":
            summary.update(status="failed", error=str(error))
            write_summary(summary, folder)
        raise


def show(folder: Path) -> None:
    """Print the table of a finished run; a line of it where a sweep prints one for all."""
    summary = read_summary(folder / FILE_NAME)
    if "KDCI_SWEEP" in os.environ:
        _log.info("Finished with %.2f%% in %s", summary["acc1"]["last"], folder)
    else:
        console().print(run_table(summary, folder))


def run_point(config: DictConfig, overrides: Sequence[str], record: Path) -> None:
    """Run one point of a sweep in a process of its own and record how it ended.

    Args:
        config: The composed point.
        overrides: Its overrides.
        record: Folder of the point within the sweep.
    """
    command = [sys.executable, "-m", "src.run", *overrides, "hydra.mode=RUN"]
    _log.info("%s", " ".join(overrides))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        last_line = ""
        for line in child.stderr or ():
            sys.stderr.write(line)
            last_line = line.strip() or last_line
    name = run_name(config.task, HydraConfig.get().runtime.choices)
    folder = Path(config.paths.outputs, name, config_hash(resolved(config)))
    point = {
        "overrides": list(overrides),
        "exit_code": child.returncode,
        "folder": str(folder),
        "error": last_line.removeprefix("Error: ") if child.returncode else None,
    }
    (record / POINT).write_text(json.dumps(point, indent=2))


class SweepReport(Callback):
    """One table over all points when a sweep ends; exit code 1 if a point failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the record of every point and its summary."""
        from src.report.sweep import report_sweep

        folder = Path(config.hydra.sweep.dir)
        if report_sweep(folder, sorted(folder.glob(f"*/{POINT}"))):
            raise SystemExit(1)
