"""Option files of other people may set options, and not what Hydra itself calls."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.config.option_files import content_of, headers, in_program, no_regular_file

_HYDRA, _PARAMS = "hydra", "hydra.sweeper.params"


def refuse_hydra_settings(folders: Sequence[Path]) -> None:
    """Refuse files that reach Hydra's own node, whose classes it calls before all checks.

    Its callbacks, logging and launchers may be set on the command line; a file may set the
    points of a sweep.

    Args:
        folders: Folders of option files that are exchanged: experiments, and those of plug-ins.

    Raises:
        UserError: For the first file that sets, chooses or lies in anything else of Hydra's, or
            would say something else the next time, as a pipe may.
    """
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() and path.is_dir():  # into which Hydra looks, and rglob does not
                raise UserError(
                    f"Refused '{in_program(path)}': expected option files in folders, but it is a "
                    "link to one; put the folder itself there"
                )
            reached = next(_reached(path), None) if path.match("*.yaml") else None
            if reached is not None:
                raise UserError(
                    f"Refused '{in_program(path)}': expected nothing of Hydra's but {_PARAMS}, "
                    f"but got {reached}; give it on the command line"
                )


def _reached(path: Path) -> Iterator[str]:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(no_regular_file(path))
    content = content_of(path)
    if content is None:  # what Hydra cannot read sets nothing
        return
    yield from (line for line in headers(path) if _HYDRA in line)
    if not isinstance(content, dict):
        return
    defaults = content.get("defaults")
    entries = defaults if isinstance(defaults, list) else [defaults]
    for entry in map(str, entries):
        if _HYDRA in entry or ".." in entry:  # a file elsewhere, which nobody looks into
            yield entry
    if content.get(_HYDRA) is not None:
        yield from _reached_by(content[_HYDRA])


def _reached_by(settings: Any) -> Iterator[str]:
    """Of what a file says of Hydra's node, all but points of a sweep."""
    sweeper = settings.get("sweeper") if isinstance(settings, dict) else None
    if not isinstance(sweeper, dict) or set(settings) != {"sweeper"} or set(sweeper) != {"params"}:
        yield f"the key '{_HYDRA}'"
        return
    points = sweeper["params"]
    if isinstance(points, dict):
        yield from (f"a point's {key}" for key in points if _is_hydra_s(str(key)))
    elif points is not None:  # an interpolation of keys that stand elsewhere
        yield f"{_PARAMS}: {points}"


def _is_hydra_s(key: str) -> bool:
    return re.split(r"[./@=]", key.lstrip("+~"))[0] == _HYDRA
