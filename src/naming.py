"""What runs and sweeps are called: their folders and hashes."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.common.files import content_hash

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
# What changes where a run's files lie or how it is watched, but not what it computes.
_NOT_HASHED = {"hydra", "logger", "paths", "force"}
_PLACES = {"root", "cache_dir"}
_MULTIRUN = {"-m", "--multirun"}
_TABLES = "tables"  # values have been taken out of it; the rest belongs to other networks


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


def config_hash(plain: Mapping[str, Any]) -> str:
    """Content hash of a resolved configuration, 12 hexadecimal digits."""
    return content_hash(hashed_part(plain))[:12]


def run_name(task: str, choices: Mapping[str, Any]) -> str:
    """Folder of runs of the same chosen options; the configuration's hash tells them apart."""
    if task == "teacher":
        return f"teacher_{choices['dataset']}_{choices['teacher']}"
    return "_".join(str(choices[group]) for group in ("dataset", "baseline", "kdci"))


def register_resolvers() -> None:
    """Teach OmegaConf the names of run folders."""

    def name(*, _root_: DictConfig) -> str:
        return run_name(_root_.task, _root_.hydra.runtime.choices)

    def digest(*, _root_: DictConfig) -> str:
        return config_hash(resolved(_root_))

    OmegaConf.register_new_resolver("run_name", name, replace=True)
    OmegaConf.register_new_resolver("config_hash", digest, replace=True)


def multirun_first(arguments: Sequence[str]) -> list[str]:
    """Arguments with ``-m`` ahead: argparse takes no overrides on both sides of a flag."""
    return sorted(arguments, key=lambda argument: argument not in _MULTIRUN)


def name_sweep(arguments: Sequence[str]) -> None:
    """Name a sweep by its arguments, so that the same sweep again finds its folder.

    The name travels as an environment variable, so that launchers and points inherit it.
    """
    if _MULTIRUN & set(arguments):
        os.environ["KDCI_SWEEP"] = content_hash(sorted(arguments))[:12]
