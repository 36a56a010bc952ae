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
from src.common.sealed import DamagedError, read_own, write_sealed

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
        memory = read_own(path, path.name)
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
    before, is_settled = _stamps(names)
    value = compute()
    after, _ = _stamps(names)
    if before == after and is_settled:
        with suppress(UserError):  # a cache that cannot be written costs time, no result
            memory = {"of": path.name, "value": value, "rests_on": names, "stamps": before}
            write_sealed(path, memory)
    return value


def settled(stamps: Iterable[Stamp]) -> bool:
    """Whether all changes are so old that another one would show.

    Every change moves the time of status change; that of modification may be any date.
    """
    return max((changed for *_, changed in stamps), default=0) < time.time_ns() - _SETTLED_NS


def _stamps(names: Iterable[str]) -> tuple[str, bool]:
    """Digest of all stamps, and whether they have settled."""
    found = [stamp(name) for name in names]
    digest = xxhash.xxh3_128(repr(found).encode()).hexdigest()
    return digest, settled(each for each in found if each is not None)
