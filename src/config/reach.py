"""Option files of other people may set options, and not what Hydra itself calls."""

import re
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from src.common.errors import UserError
from src.config.option_files import in_program

_HYDRA, _PARAMS = re.compile(r"\bhydra\b"), "hydra.sweeper.params"
_NAMED = ("main", "command-line")  # conf, or what --config-dir and --config-path name in its place


def guard_hydra() -> None:
    """Make Hydra refuse files that reach its own node, whose classes it calls before all checks.

    Its callbacks, logging and launchers may be set on the command line, and by this program's own
    options; any other file may set the points of a sweep. Hydra cannot be told so. It is stopped
    where it has read a file and knows where in the configuration it goes, whatever path, link,
    interpolation or point of a sweep has led to it; by a ``UserError`` that says what was reached.
    """
    load = ConfigLoaderImpl._load_single_config
    if not hasattr(load, "__wrapped__"):  # else it is guarded
        ConfigLoaderImpl._load_single_config = _guarded(load)  # type: ignore[method-assign]


def _guarded(load: Any) -> Any:
    @wraps(load)
    def load_single_config(*args: Any, default: Any, **options: Any) -> ConfigResult:
        result: ConfigResult = load(*args, default=default, **options)
        scheme, _, folder = result.path.partition("://")
        name = default.config_path.removesuffix(".yaml")
        path = Path(folder, f"{name}.yaml")
        is_of_hydra = name.startswith("hydra/") and ".." not in path.parts
        is_within = path.resolve().is_relative_to(Path(folder).resolve())
        is_ours = scheme != "file" or (result.provider in _NAMED and is_within)
        # The primary one is named on the command line, or the program's.
        is_own = default.primary or (is_of_hydra and is_ours)
        reached = None if is_own else next(_reached(result), None)
        if reached is not None:
            raise UserError(
                f"Refused '{in_program(path)}': expected nothing of Hydra's but {_PARAMS}, but "
                f"got {reached}; give it on the command line, or put it into conf/hydra"
            )
        return result

    return load_single_config


def _reached(result: ConfigResult) -> Iterator[str]:
    """What of Hydra's a file sets or chooses, but for the points of a sweep."""
    for entry in result.defaults_list or ():
        name = getattr(entry, "path", None) or ""  # a group is never evaluated
        if _HYDRA.search(str(entry)) or "${" in name:
            yield f"the default {name or entry}"
    content: Any = OmegaConf.to_container(result.config)
    if not isinstance(content, dict) or "hydra" not in content:
        return
    settings = content["hydra"]
    sweeper = settings.get("sweeper") if isinstance(settings, dict) else None
    if not isinstance(sweeper, dict) or set(settings) != {"sweeper"} or set(sweeper) != {"params"}:
        yield "the key 'hydra'"
        return
    points = sweeper["params"]
    if isinstance(points, dict):
        yield from (f"a point's {key}" for key, value in points.items() if _is_more(key, value))
    elif points is not None:  # an interpolation of keys that stand elsewhere
        yield f"{_PARAMS}: {points}"


def _is_more(key: Any, value: Any) -> bool:
    """Whether a point is more than a key and its values: Hydra builds what has a ``_target_``."""
    is_key = not str(key).startswith("_") and not _HYDRA.search(str(key))
    return not is_key or isinstance(value, dict | list)
