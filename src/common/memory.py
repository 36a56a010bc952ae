"""Results remembered for as long as the files that they rest on stay as they are.

A file counts as unchanged while its size, inode, and times of modification and of status change
do: the last of these cannot be set back by a program, so that a copy which keeps an older time of
modification is noticed too.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from src.common.errors import UserError
from src.common.sealed import DamagedError, read_sealed, write_sealed

# A file that changes twice within one tick of its clock looks unchanged: what is younger than
# this is not yet remembered.
_SETTLED_NS = 2 * 10**9

Stamp = tuple[int, int, int, int]


def stamp(path: str | os.PathLike[str]) -> Stamp | None:
    """Size, inode, and times of modification and of status change; None where nothing is."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def recall(path: Path) -> Any | None:
    """What was remembered at ``path``; None if nothing was, or any file has changed since."""
    try:
        memory = read_sealed(path)
    except DamagedError:
        return None
    stamps, _ = _stamps(memory["rests_on"])
    return memory["value"] if stamps == memory["stamps"] else None


def remember(
    path: Path, rests_on: Callable[[], Iterable[str | Path]], compute: Callable[[], Any]
) -> Any:
    """The result of ``compute``, remembered at ``path``.

    Args:
        path: JSON file of the memory.
        rests_on: Names all files and folders that the result depends on; a folder stands for the
            names within it.
        compute: Makes a JSON-able result other than None.
    """
    known = recall(path)
    if known is not None:
        return known
    names = [os.path.abspath(name) for name in rests_on()]
    before, newest = _stamps(names)
    now = time.time_ns()
    value = compute()
    after, _ = _stamps(names)
    if before == after and newest < now - _SETTLED_NS:
        with suppress(UserError):  # a cache that cannot be written costs time, no result
            write_sealed(path, {"value": value, "rests_on": names, "stamps": before})
    return value


def _stamps(names: Iterable[str]) -> tuple[str, int]:
    """Digest of all stamps, and the time of the latest change, nanoseconds."""
    digest, newest = xxhash.xxh3_128(), 0
    for name in names:
        found = stamp(name)
        digest.update(repr(found).encode())
        newest = max(newest, *found[2:]) if found else newest
    return digest.hexdigest(), newest
