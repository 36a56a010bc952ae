"""What lies below a folder, each thing once."""

import errno
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple

from src.common.errors import UserError
from src.dataset.decode import image_suffixes

# Of links that lead to no folder: to themselves, through a file, to no possible name.
_LEADS_NOWHERE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG})

# What systems and archive tools leave in every folder, in lower case; hidden entries besides.
_LITTER = frozenset(
    {
        *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"),
        *("lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    }
)

Inode = tuple[int, int]


class Walk(NamedTuple):
    """What lies below a folder.

    Attributes:
        images: Relative paths of all entries that are named as images, sorted; they need not be
            regular files.
        folders: Every folder looked into, and every link that was not followed but may lead to
            another folder one day.
        others: How many other files there are by suffix, in lower case.
    """

    images: list[str]
    folders: list[Path]
    others: Mapping[str, int]


def walk(folder: Path, closed: Set[Inode] | None = None) -> Walk:
    """Look into a folder at any depth; hidden entries and litter are left out.

    Links are followed, but every real folder is visited once, under its own path where it has
    one, and never one that ``folder`` lies in, by its real path or by a path of links: a folder
    that is linked into itself has every image once, and a link up from a class does not bring in
    the other classes. A folder that is named as an image counts as one, an unreadable one.

    Args:
        folder: Where to start; nothing is found where it does not exist.
        closed: Folders that no link is followed to; by default all that ``folder`` lies in.
    """
    if not folder.is_dir():
        return Walk([], [], {})
    if closed is None:
        closed = upwards(folder.absolute().parent) - {inode_of(folder)}
    return _walk(folder, closed)


def _walk(folder: Path, closed: Set[Inode]) -> Walk:
    images: list[str] = []
    folders: list[Path] = []
    others: Counter[str] = Counter()
    visited = set(_inodes(_lineage(folder))) - {inode_of(folder)}
    waiting = [_Folder(folder.is_symlink(), "", folder)]
    while waiting:
        is_link, prefix, place = heappop(waiting)
        folders.append(place)
        inode = inode_of(place)
        if inode in visited or (is_link and inode in closed):
            continue
        visited.add(inode)
        for entry in entries(place):
            name = f"{prefix}{entry.name}"
            if is_image(entry.name):
                images.append(name)
            elif is_folder(entry):
                heappush(waiting, _Folder(entry.is_symlink(), f"{name}/", Path(entry.path)))
            else:
                others[suffix_of(entry.name)] += 1
                folders += [Path(entry.path)] if entry.is_symlink() else []
    return Walk(sorted(images), folders, others)


class _Folder(NamedTuple):
    """Sorts real folders at any depth before linked ones, so that the real path wins."""

    is_link: bool
    prefix: str
    path: Path


def upwards(folder: Path) -> Set[Inode]:
    """A folder and all that it lies in, by its real path or by the links of the path given."""
    given = folder.absolute()
    return _inodes(above for place in (given, *given.parents) for above in _lineage(place))


def _lineage(folder: Path) -> tuple[Path, ...]:
    resolved = folder.resolve()
    return resolved, *resolved.parents


def _inodes(folders: Iterable[Path]) -> Set[Inode]:
    return frozenset(map(inode_of, folders))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or leads to one.

    Raises:
        UserError: If that cannot be seen.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno in _LEADS_NOWHERE:
            return False
        raise _closed(entry.path, error) from error


def _closed(folder: str | Path, error: OSError) -> UserError:
    return UserError(f"Cannot look into '{folder}' ({error.strerror}); allow it, or remove it")


def inode_of(folder: str | Path) -> Inode:
    """What tells a real folder from all others."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """All but the hidden entries of a folder, and but what systems leave behind everywhere.

    Raises:
        UserError: If it may not be looked into.
    """
    try:
        with os.scandir(folder) as found:
            return [entry for entry in found if not is_litter(entry.name)]
    except OSError as error:
        raise _closed(folder, error) from error


def is_litter(name: str) -> bool:
    """Whether a file or folder of that name is nobody's data."""
    return name.startswith(".") or name.lower() in _LITTER


def is_image(name: str) -> bool:
    """Whether a file of that name should be an image."""
    return suffix_of(name) in image_suffixes()


def suffix_of(name: str) -> str:
    """The last suffix in lower case with its dot; that alone is empty for a name without one."""
    _, dot, suffix = name.rpartition(".")  # a third of the time that `splitext` takes
    return f"{dot}{suffix}".lower() if dot else ""
