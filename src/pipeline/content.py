"""What a configuration reads: hashes of it, and the files behind them."""

import stat
from pathlib import Path
from typing import Any, cast

from hydra.utils import get_class

from src.common.files import sha256_file
from src.common.leaves import leaves
from src.config.node import build
from src.config.schema import RunConfig
from src.dataset.contract import Dataset, Pool
from src.identity import Traits
from src.substitution.contract import Baseline


def traits_of(config: RunConfig) -> Traits:
    """What of the configuration is read at all."""
    kind = cast("type[Baseline]", get_class(config.baseline["_target_"]))
    is_whole_run = config.task == "distill"
    return Traits(
        trains_teacher=config.teacher.checkpoint is None,
        reads_pool=kind.reads_pool and is_whole_run,
        has_companion=kind.reads_student and config.substitution.mode == "replay",
        is_compensated=config.kdci is not None,
    )


def contents_of(config: RunConfig) -> dict[str, str]:
    """Hashes of everything that is read: data set, pool, checkpoint, files that options name."""
    found = {"dataset": _dataset(config).fingerprint()}
    if traits_of(config).reads_pool:
        found["pool"] = _pool(config).fingerprint()
    return found | {option: sha256_file(path) for option, path in _files(config).items()}


def sources_of(config: RunConfig) -> list[str | Path]:
    """All files and folders that :func:`contents_of`, and the check of a run, depend on."""
    sources: list[str | Path] = [*_dataset(config).sources(), *_files(config).values()]
    weights = config.fid.weights  # which shape nothing
    if weights is not None and _is_regular(Path(weights)):
        sources.append(weights)
    if traits_of(config).reads_pool:
        sources += _pool(config).sources()
    return sources


def _dataset(config: RunConfig) -> Dataset:
    dataset: Dataset = build(config.dataset)
    return dataset


def _pool(config: RunConfig) -> Pool:
    pool: Pool = build(config.pool)
    return pool


def _files(config: RunConfig) -> dict[str, Path]:
    """Files that options of teacher and baseline name, by option."""
    teacher = config.teacher.model_dump(include={"checkpoint", "class_map"})
    named: dict[str, Any] = dict(leaves(teacher, "teacher"))
    named |= dict(leaves(config.baseline, "baseline"))
    paths = {option: Path(value) for option, value in named.items() if isinstance(value, str)}
    return {option: path for option, path in paths.items() if _is_regular(path)}


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # no such file, or no name of one
        return False
