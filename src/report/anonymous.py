"""Runs as strangers may see them: without host, folders, paths and names of a group."""

import re
import shlex
from pathlib import Path
from typing import Any, cast

from src.common.files import content_hash
from src.report.collection import Found
from src.report.summary import Summary

_HIDDEN = "..."
_START = r"(?:~\w*|\.{1,2}|\$\{?\w+\}?)?/"
_QUOTED = rf"""(?P<quote>['"`]){_START}(?:(?!(?P=quote)).)+(?P=quote)"""
_END = r"""[^\s,;:'"`)\]}>|]"""
_CLIMBING = rf"""[\w./-]*\.\./{_END}*"""
_BARE = rf"(?<![\w./-]){_START}{_END}+|(?<=-[A-Z])/{_END}+|(?<!\w)(?:~\w+|\$\{{?\w+)"
_PATH = re.compile(f"{_QUOTED}|{_CLIMBING}|{_BARE}")
# Options whose values may name a group: its accounts and projects, packages, files and folders.
_NAMING = re.compile(
    r"[+~]*(?:plugins|fid\.weights|(?:hydra|paths|logger\.wandb)(?:\..+)?"
    r"|.+\.(?:root|cache_dir|checkpoint|class_map))"
)


def without_paths(text: str) -> str:
    """``text`` without paths that begin at a root, a home or above; relative ones stay.

    Of a path with blanks that is not quoted, what follows the first blank stays.
    """
    return _PATH.sub(_HIDDEN, text)


def anonymous(found: Found) -> Found:
    """The same runs; the ``folder`` of each is kept, to read from, and is nothing to be shown."""
    damaged = [
        each._replace(path=Path(_HIDDEN), reason=without_paths(each.reason))
        for each in found.damaged
    ]
    return Found([_anonymous(each) for each in found.summaries], damaged)


def _anonymous(summary: Summary) -> Summary:
    identity = dict(summary["identity"])
    identity["settings"] = {key: _setting(value) for key, value in identity["settings"].items()}
    command = summary.get("command")
    changed = {
        "host": None,
        "command": None if command is None else without_values(command),
        "error": without_paths(summary.get("error") or "") or None,
        "identity": identity,
    }
    return cast("Summary", summary | changed)


def without_values(command: str) -> str:
    """A command line; of each word that holds a path, the name before its ``=`` stays.

    So it does of options that may name a group, such as ``logger.wandb.entity``.
    """
    try:
        words = [word.partition("=") for word in shlex.split(command)]
    except ValueError:  # it never was one
        return _HIDDEN
    shown = []
    for key, equals, value in words:
        name = _HIDDEN if _PATH.search(key) else key
        is_hidden = _PATH.search(value) or (equals and _NAMING.fullmatch(key))
        shown.append(name + equals + (_HIDDEN if is_hidden else value))
    return shlex.join(shown)


def run_name(folder: str | Path) -> str:
    """What a run's folder is called."""
    return Path(folder).name


def _setting(value: Any) -> Any:
    """A path as a hash: runs that differ in it stay apart."""
    text = str(value)
    return f"path-{content_hash(text)[:7]}" if _PATH.search(text) else value
