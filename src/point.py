"""One point of a sweep: a process of its own, and the record of how it ended."""

import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import Signals

from omegaconf import DictConfig, OmegaConf

from src.common.errors import UserError
from src.common.files import content_hash, lock
from src.common.parent import PARENT
from src.common.sealed import DamagedError, read_own, write_sealed
from src.common.signals import interruptible
from src.launch import TOLD
from src.report.sweep import Failure, point_name, result_of

POINT = "point.json"
FOLDER, START = "KDCI_SWEEP_FOLDER", "KDCI_SWEEP_START"
"""Where the sweep lies, and which call of it this is, for the processes of its points."""
BEGUN = ".begun"
"""One line for each call of a sweep that has begun it, or a point of it."""
_log = logging.getLogger(__name__)
_REASON = re.compile(r"^(\[rank \d+\] )?Error: ")


def digest(*, _root_: DictConfig) -> str:
    """What tells the records of points of one number apart, as options' files may be edited.

    Args:
        _root_: What the point is composed of; OmegaConf knows it by this name.
    """
    own = [str(key) for key in _root_ if key != "hydra"]
    return content_hash(OmegaConf.to_yaml(OmegaConf.masked_copy(_root_, own)))[:8]


def run_point(overrides: Sequence[str], record: Path) -> None:
    """Run one point of a sweep in a process of its own and record how it ended.

    Another call of the same sweep that has come to it waits, and then does the same: it is shown
    the result.

    Args:
        overrides: Command line of the point.
        record: Folder of the point within the sweep.
    """
    _refuse_elsewhere(record)
    with lock(record):
        _refuse_shared(overrides, record)
        _run_point(overrides, record)


def _refuse_elsewhere(record: Path) -> None:
    """Refuse a point that the end of the sweep would not find."""
    folder = os.environ.get(FOLDER)
    if folder and Path(folder).resolve() not in record.resolve().parents:
        raise UserError(
            f"Expected each point's record below its sweep's, '{folder}', but got '{record}'; "
            "leave hydra.sweep.dir and hydra.sweep.subdir out, and give all points one "
            "paths.outputs"
        )


def _refuse_shared(overrides: Sequence[str], record: Path) -> None:
    """Refuse a second point of this call in the place of another, whose end it would hide."""
    if not os.environ.get(START) or not has_begun(record / BEGUN):
        return  # of another call
    try:
        other = read_own(record / POINT, point_name(record))["overrides"]
    except (OSError, DamagedError):  # begun again by a queue that had stopped it
        return
    if other != list(overrides):
        raise UserError(
            f"Expected a record of its own for each point, but '{record}' is that of "
            f"{' '.join(other)} already; leave hydra.sweep.subdir out"
        )


def _run_point(overrides: Sequence[str], record: Path) -> None:
    command = [sys.executable, "-m", "src.run", *overrides, "hydra.mode=RUN"]
    _log.info("%s", " ".join(overrides))
    told = record / "folder.txt"
    for stale in (told, record / POINT):
        stale.unlink(missing_ok=True)
    begin(record)
    environment = os.environ | {TOLD: str(told), PARENT: str(os.getpid())}
    with (
        interruptible(),
        subprocess.Popen(
            command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace", env=environment
        ) as child,
    ):
        try:
            reason = last_line = ""
            for line in child.stderr or ():
                sys.stderr.write(line)
                last_line = line.strip() or last_line
                # A rank's own comes first; of its end, whoever started it speaks after it.
                reason = reason or (last_line if _REASON.match(line) else "")
        except BaseException:  # a launcher's handler of signals raises errors of its own
            child.terminate()  # it may have had the signal too, and heeds one only
            raise
    error = _REASON.sub(r"\1", reason or last_line) if child.returncode > 0 else None
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


def value_of(record: Path, objective: str) -> float | None:
    """What a search is told of a point that has ended, percent; None is a failure to Optuna.

    Args:
        record: Folder of the point within the sweep.
        objective: ``agreement`` or ``acc1``; only the latter reads what the test split said.
    """
    summary = result_of(record / POINT)
    if summary is None or isinstance(summary, Failure):
        return None
    if objective == "acc1":
        return summary["acc1"]["last"]
    held_out = summary.get("held_out")
    return held_out["agreement"] if held_out else None


def begin(folder: Path) -> None:
    """Note that this call has begun the sweep, or the point, that lies there."""
    with (folder / BEGUN).open("a") as calls:  # of another call that runs beside it, too
        calls.write(f"{os.environ.get(START, '')}\n")


def has_begun(calls: Path) -> bool:
    """Whether this call is among those that have begun what is recorded there."""
    return calls.exists() and os.environ.get(START, "") in calls.read_text().split("\n")
