"""Everything between the command line and the pipeline: folders, processes, sweeps."""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.common.errors import UserError
from src.report.console import console
from src.report.summary import FILE_NAME, read_summary, write_summary
from src.report.table import run_table
from src.schema import TrainerOptions, check, nearest

_log = logging.getLogger(__name__)
# What changes where a run's files lie or how it is watched, but not what it computes.
_NOT_HASHED = {"hydra", "logger", "paths", "force"}
_PLACES = {"root", "cache_dir"}
_TABLES = "tables"  # values have been taken out of it; the rest belongs to other networks
POINT = "point.json"
ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
_OPTIONAL = {"recipe": CONF / "recipe", "experiments": ROOT / "experiments"}


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, without Hydra's node and recipes' look-up tables."""
    keys = [str(key) for key in config if key != "hydra"]
    plain = OmegaConf.to_container(
        OmegaConf.masked_copy(config, keys), resolve=True, throw_on_missing=True
    )
    without_tables: dict[str, Any] = dict(plain)  # type: ignore[arg-type]
    without_tables.pop(_TABLES, None)
    return without_tables


def hashed_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a resolved configuration that identifies a run.

    With ``kdci=none`` the options of KDCI are left out, so that the vanilla points of a grid
    over them are one run.
    """
    part = {key: value for key, value in config.items() if key not in _NOT_HASHED}
    for group in ("dataset", "pool"):
        part[group] = {key: value for key, value in part[group].items() if key not in _PLACES}
    part["trainer"] = {k: v for k, v in part["trainer"].items() if k != "progress"}
    if part["kdci"]["name"] == "none":
        part["kdci"] = {"name": "none"}
    return part


def short_hash(value: Any) -> str:
    """First 12 hexadecimal digits of the content's SHA-256."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def choice(root: DictConfig, group: str) -> str:
    """The option chosen for a config group."""
    return str(root.hydra.runtime.choices[group])


def register_resolvers() -> None:
    """Teach OmegaConf the names of run and sweep folders."""

    def run_name(*, _root_: DictConfig) -> str:
        if _root_.task == "teacher":
            return f"teacher_{choice(_root_, 'dataset')}_{choice(_root_, 'teacher')}"
        return "_".join(choice(_root_, group) for group in ("dataset", "baseline", "kdci"))

    def config_hash(*, _root_: DictConfig) -> str:
        return short_hash(hashed_part(resolved(_root_)))

    OmegaConf.register_new_resolver("run_name", run_name, replace=True)
    OmegaConf.register_new_resolver("config_hash", config_hash, replace=True)


def name_sweep(arguments: Sequence[str]) -> None:
    """Name a sweep by its arguments, so that the same sweep again finds its folder.

    The name travels as an environment variable, so that launchers and points inherit it.
    """
    if {"-m", "--multirun"} & set(arguments):
        os.environ["KDCI_SWEEP"] = short_hash(sorted(arguments))


def refuse_unknown_options(arguments: Sequence[str]) -> None:
    """Find misspelt options of the optional groups, which Hydra would pass over in silence.

    Raises:
        UserError: If there is no such option.
    """
    for argument in arguments:
        group, _, names = argument.partition("=")
        if group not in _OPTIONAL:
            continue
        known = sorted(path.stem for path in _OPTIONAL[group].glob("*.yaml"))
        for name in names.split(","):
            if name not in known:
                raise UserError(_unknown_option(group, name, known))


def _unknown_option(group: str, name: str, known: Sequence[str]) -> str:
    return f"Unknown option '{group}={name}'{nearest(name, known)} (one of: {', '.join(known)})"


def is_rank() -> bool:
    """Whether this process is one of several, started by :func:`start_ranks`."""
    return "TORCHELASTIC_RUN_ID" in os.environ


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
            config_hash=short_hash(hashed_part(plain)),
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


@contextmanager
def complaints() -> Iterator[None]:
    """Turn failures that the user can mend into one line and an exit code.

    ``SystemExit``, because Hydra adds lines of its own to every other exception.
    """
    try:
        yield
    except UserError as error:
        sys.exit(complain(str(error), 2))
    except FloatingPointError as error:
        sys.exit(complain(str(error), 1))
    except RankError as error:
        sys.exit(complain(str(error), error.exit_code))
    except OmegaConfBaseException as error:
        sys.exit(complain(explain(error, ()), 2))


def complain(message: str, exit_code: int) -> int:
    """Print one line to stderr and return the exit code."""
    rank = os.environ.get("RANK", "0")
    prefix = "" if rank == "0" else f"[rank {rank}] "
    sys.stderr.write(f"{prefix}Error: {' '.join(message.split())}\n")
    return exit_code


class RankError(RuntimeError):
    """A rank failed; it has said why on its own."""

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f"Rank {rank} failed with exit code {exit_code}; all ranks were stopped")
        self.exit_code = exit_code


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
    folder = Path(config.paths.outputs) / run_folder(config)
    point = {
        "overrides": list(overrides),
        "exit_code": child.returncode,
        "folder": str(folder),
        "error": last_line.removeprefix("Error: ") if child.returncode else None,
    }
    (record / POINT).write_text(json.dumps(point, indent=2))


def run_folder(config: DictConfig) -> str:
    """Name of a run's folder below ``paths.outputs``."""
    names = HydraConfig.get().runtime.choices
    name = "_".join(str(names[group]) for group in ("dataset", "baseline", "kdci"))
    return f"{name}/{short_hash(hashed_part(resolved(config)))}"


class SweepReport(Callback):
    """One table over all points when a sweep ends; exit code 1 if a point failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Read the record of every point and its summary."""
        from src.report.sweep import report_sweep

        folder = Path(config.hydra.sweep.dir)
        if report_sweep(folder, sorted(folder.glob(f"*/{POINT}"))):
            raise SystemExit(1)


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's complaint in one line, with the nearest name where a name was wrong."""
    text = " ".join(str(error).split())
    text = text.split(" Config search path")[0].split(" Set the environment variable")[0]
    option = re.search(
        r"Could not find '([\w@.]+)/([^']+)' Available options in '[^']+': (.*)", text
    )
    if option:
        return _unknown_option(option[1], option[2], option[3].split())
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        return f"Unknown configuration key '{key[1]}'{nearest(key[1], _known_keys(overrides))}"
    return text


def _known_keys(overrides: Sequence[str]) -> list[str]:
    """Dotted keys of the configuration that the group choices alone would make."""
    groups = [o for o in overrides if "=" in o and "." not in o.split("=")[0] and "," not in o]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose("config", overrides=groups)
        except Exception:  # noqa: BLE001 - only a hint is lost
            config = compose("config")
    return list(_flatten(OmegaConf.to_container(config), ""))


def _flatten(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _flatten(value, f"{prefix}{key}.")
