"""Points of a sweep, each a process of its own, and what becomes of them when it ends."""

import logging
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from threading import Thread
from threading import enumerate as enumerate_threads
from typing import Any

import psutil
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from src.common.sealed import write_sealed
from src.common.signals import interruptible
from src.launch import TOLD
from src.report.sweep import point_name

_log = logging.getLogger(__name__)
POINT, SWEEP_PROCESS = "point.json", "KDCI_SWEEP_PROCESS"


def run_point(overrides: Sequence[str], record: Path) -> None:
    """Run one point of a sweep in a process of its own and record how it ended.

    Args:
        overrides: Those of the point.
        record: Folder of the point within the sweep.
    """
    command = [sys.executable, "-m", "src.run", *overrides, "hydra.mode=RUN"]
    _log.info("%s", " ".join(overrides))
    told = record / "folder.txt"
    told.unlink(missing_ok=True)
    environment = os.environ | {TOLD: str(told)}
    _follow_sweep()
    with (
        interruptible(),
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as child,
    ):
        try:
            last_line = ""
            for line in child.stderr or ():
                sys.stderr.write(line)
                last_line = line.strip() or last_line
        except BaseException:  # a launcher's handler of signals raises errors of its own
            child.terminate()  # it may have had the signal too, and heeds one only
            raise
    error = last_line.removeprefix("Error: ") if child.returncode > 0 else None
    if child.returncode < 0:
        error = f"Killed by {Signals(-child.returncode).name}; the same command goes on"
    point = {
        "of": point_name(record),
        "overrides": list(overrides),
        "exit_code": child.returncode,
        "folder": told.read_text() if told.exists() else "",
        "error": error,
    }
    write_sealed(record / POINT, point)


def _follow_sweep() -> None:
    """Stop soon after the sweep has ended without a word, if that has started this process.

    Joblib's workers outlive it, and go on with what they were given in advance. Submitit's jobs
    are others' children, and meant to.
    """
    sweep, name = os.environ.get(SWEEP_PROCESS), "follow the sweep"
    if sweep != str(os.getppid()) or name in {thread.name for thread in enumerate_threads()}:
        return

    def watch() -> None:
        while str(os.getppid()) == sweep:
            time.sleep(1)
        points = psutil.Process().children()
        for point in points:
            point.terminate()
        psutil.wait_procs(points)
        os._exit(1)

    Thread(target=watch, name=name, daemon=True).start()


class SweepReport(Callback):
    """One table over all points when a sweep ends; exit code 1 if a point failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the record of every point and its summary."""
        from src.report.sweep import report_sweep

        folder = Path(config.hydra.sweep.dir)
        try:
            folders = (path for path in folder.iterdir() if path.is_dir())
            # Launchers keep what is theirs in hidden ones.
            points = [path for path in folders if not path.name.startswith(".")]
            failed = report_sweep(folder, [path / POINT for path in sorted(points)])
        except Exception as error:
            # Hydra makes a warning of what a callback raises, and exit code 0.
            traceback.print_exc()
            raise SystemExit(1) from error
        if failed:
            raise SystemExit(1)
