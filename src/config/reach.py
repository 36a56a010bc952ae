"""Option files of other people may set options, and not what Hydra itself calls."""

from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from src.common.errors import UserError
from src.common.package import CONF
from src.config.option_files import in_program

_HYDRA, _PARAMS = "hydra", "hydra.sweeper.params"


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
        path, parts = Path(folder, f"{default.config_path}.yaml"), Path(default.config_path).parts
        is_of_hydra = parts[0] == _HYDRA and ".." not in parts
        is_ours = scheme != "file" or path.resolve().is_relative_to(CONF.resolve())
        # The primary one is named on the command line, or the program's.
        is_own = default.primary or (is_of_hydra and is_ours)
        reached = None if is_own else next(_reached(result), None)
        if reached is not None:
            raise UserError(
                f"Refused '{in_program(path)}': expected nothing of Hydra's but {_PARAMS}, but "
                f"got {reached}; give it on the command line"
            )
        return result

    return load_single_config


def _reached(result: ConfigResult) -> Iterator[str]:
    """What of Hydra's a file sets or chooses, but for the points of a sweep."""
    yield from (str(entry) for entry in result.defaults_list or () if _HYDRA in str(entry))
    content: Any = OmegaConf.to_container(result.config)
    settings = content.get(_HYDRA) if isinstance(content, dict) else None
    if settings is None:
        return
    sweeper = settings.get("sweeper") if isinstance(settings, dict) else None
    if not isinstance(sweeper, dict) or set(settings) != {"sweeper"} or set(sweeper) != {"params"}:
        yield f"the key '{_HYDRA}'"
        return
    points = sweeper["params"]
    if isinstance(points, dict):
        yield from (f"a point's {key}" for key in points if _HYDRA in str(key))
    elif points is not None:  # an interpolation of keys that stand elsewhere
        yield f"{_PARAMS}: {points}"
