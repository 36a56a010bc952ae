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
from src.config.option_files import PARAMS, in_program

_HYDRA = re.compile(r"\bhydra\b")
# Who shows Hydra a folder: conf, or what --config-path names in its place, and --config-dir. That
# of plug-ins is hydra.searchpath.
_NAMED = ("main", "command-line")
_OWN = "hydra"
# Files that people give each other, wherever their folder lies, and those that lie in none.
_OTHERS = ("experiments", None)


def guard_hydra() -> None:
    """Make Hydra refuse files that reach its own node, whose classes it calls before all checks.

    Its callbacks, logging and launchers may be set on the command line, by files below ``conf``
    and by those of folders that the command line names: as options of ``hydra/...``, or under the
    key ``hydra``. Those of plug-ins, experiments, and what lies outside such a folder may set the
    points of a sweep. Hydra cannot be told so. It is stopped where it has read a file and knows
    where in the configuration it goes, whatever path, link, interpolation or point of a sweep has
    led to it; by a ``UserError`` that says what was reached.
    """
    load = ConfigLoaderImpl._load_single_config
    load = getattr(load, "unguarded", load)
    guarded = _guarded(load)
    guarded.unguarded = load
    ConfigLoaderImpl._load_single_config = guarded  # type: ignore[method-assign]


def _guarded(load: Any) -> Any:
    @wraps(load)
    def load_single_config(*args: Any, default: Any, **options: Any) -> ConfigResult:
        result: ConfigResult = load(*args, default=default, **options)
        scheme, _, folder = result.path.partition("://")
        path = Path(folder, f"{default.config_path.removesuffix('.yaml')}.yaml")
        if scheme != "file":
            group: str | None = _OWN
        else:
            group = _group(path, Path(folder)) if result.provider in _NAMED else None
        # What goes to Hydra must be chosen by a name that says so, which a group always does:
        # it is never evaluated.
        if group == _OWN or _HYDRA.search(default.package or ""):
            is_ours = group == _OWN and default.config_path.startswith(f"{_OWN}/")
        else:
            is_ours = group not in _OTHERS
        reached = None if is_ours or default.primary else next(_reached(result), None)
        if reached is not None:
            raise UserError(
                f"Refused '{in_program(path)}': expected nothing of Hydra's but {PARAMS}, but "
                f"got {reached}; give it on the command line, or copy it into conf/hydra"
            )
        return result

    return load_single_config


def _group(path: Path, folder: Path) -> str | None:
    """First part of where a file of a folder of options really lies; None outside of it."""
    path, folder = path.resolve(), folder.resolve()
    return path.relative_to(folder).parts[0].casefold() if path.is_relative_to(folder) else None


def _reached(result: ConfigResult) -> Iterator[str]:
    """What of Hydra's a file sets or chooses, but for the points of a sweep."""
    for entry in result.defaults_list or ():
        name = getattr(entry, "path", None) or ""  # a group is never evaluated
        if _HYDRA.search(str(entry)) or "${" in name:
            yield f"the default {name or _default(entry)}"
    content: Any = OmegaConf.to_container(result.config)
    if not isinstance(content, dict) or _OWN not in content:
        return
    settings = content[_OWN]
    sweeper = settings.get("sweeper") if isinstance(settings, dict) else None
    if not isinstance(sweeper, dict) or set(settings) != {"sweeper"} or set(sweeper) != {"params"}:
        yield f"the key '{_OWN}'"
        return
    points = sweeper["params"]
    if isinstance(points, dict):
        yield from (f"a point's {key}" for key, value in points.items() if _is_more(key, value))
    elif points is not None:  # an interpolation of keys that stand elsewhere
        yield f"{PARAMS}: {points}"


def _default(entry: Any) -> str:
    """One that is chosen of a group, as it stands in a file."""
    return f"{'@'.join(filter(None, (entry.group, entry.package)))}: {entry.value}"


def _is_more(key: Any, value: Any) -> bool:
    """Whether a point is more than a key and its values: Hydra builds what has a ``_target_``.

    Also what an interpolation within a list leads to; one alone must be a text, says Hydra.
    """
    is_key = not str(key).startswith("_") and not _HYDRA.search(str(key))
    is_plain = _is_plain(value) if isinstance(value, list) else not isinstance(value, dict)
    return not (is_key and is_plain)


def _is_plain(item: Any) -> bool:
    if isinstance(item, list):
        return all(map(_is_plain, item))
    return not isinstance(item, dict) and "${" not in str(item)
