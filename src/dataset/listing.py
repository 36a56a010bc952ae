"""Which image files a folder holds, and what to say when it is the wrong folder."""

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple

from src.common.errors import UserError
from src.common.files import sha256_file
from src.common.memory import Stamp, settled, stamp
from src.dataset.decode import IMAGE_SUFFIXES, require_regular

_SHOWN = 5
# Of links that lead to no folder: to themselves, through a file, to no possible name.
_LEADS_NOWHERE = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG})

Inode = tuple[int, int]


@dataclass(frozen=True)
class ImageFiles:
    """Image files in a fixed order.

    Attributes:
        root: Folder that ``names`` are relative to.
        names: Relative paths.
        labels: One label a file, 0 where there are none.
        folders: All folders that were looked into, those without an image too.
    """

    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]
    folders: tuple[Path, ...] = ()

    @property
    def paths(self) -> list[str]:
        """The files, with their folder."""
        return [f"{self.root}{os.sep}{name}" for name in self.names]

    @property
    def sources(self) -> list[Path]:
        """Files and folders that the list and its content depend on."""
        return [*self.folders, *map(Path, self.paths)]

    @cached_property
    def _stamps(self) -> list[Stamp | None]:
        return [stamp(path) for path in self.paths]

    def signature(self) -> str:
        """Hash of names, labels and stamps: quick, for this machine's memories."""
        # Half the time that JSON takes.
        content = repr((self.names, self.labels, self._stamps))
        return hashlib.sha256(content.encode()).hexdigest()

    def is_settled(self) -> bool:
        """Whether no file has changed so lately that its next change might not show."""
        return settled(found for found in self._stamps if found is not None)

    def fingerprint(self) -> str:
        """Hash of names, labels and file contents: equal for equal copies on any machine."""
        with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as threads:
            hashes = list(threads.map(_content, self.paths))
        lines = zip(self.names, self.labels, hashes, strict=True)
        return hashlib.sha256(repr(list(lines)).encode()).hexdigest()


def _content(path: str) -> str:
    """SHA-256 of a file, or why it has none; then decoding will report it."""
    try:
        require_regular(path)
        return sha256_file(Path(path))
    except OSError as error:
        return f"unreadable: {error.strerror}"


class Walk(NamedTuple):
    """What lies below a folder.

    Attributes:
        images: Relative paths of all entries that are named as images, sorted; they need not be
            regular files.
        folders: Every folder looked into, and every link that was not followed but may lead to
            another folder one day.
    """

    images: list[str]
    folders: list[Path]


def walk(folder: Path, closed: Set[Inode] | None = None) -> Walk:
    """Look into a folder at any depth; hidden entries are left out.

    Links are followed, but every real folder is visited once, under its own path where it has
    one, and never one that ``folder`` lies in, by its real path or by a path of links: a folder
    that is linked into itself has every image once, and a link up from a class does not bring in
    the other classes. A folder that is named as an image counts as one, an unreadable one.

    Args:
        folder: Where to start; nothing is found where it does not exist.
        closed: Folders that no link is followed to; by default all that ``folder`` lies in.
    """
    if not folder.is_dir():
        return Walk([], [])
    if closed is None:
        closed = upwards(folder.absolute().parent) - {_inode(folder)}
    return _walk(folder, closed)


def _walk(folder: Path, closed: Set[Inode]) -> Walk:
    images: list[str] = []
    folders: list[Path] = []
    visited = set(_inodes(_lineage(folder))) - {_inode(folder)}
    waiting = [_Folder(folder.is_symlink(), "", folder)]
    while waiting:
        is_link, prefix, place = heappop(waiting)
        folders.append(place)
        inode = _inode(place)
        if inode in visited or (is_link and inode in closed):
            continue
        visited.add(inode)
        for entry in _entries(place):
            name = f"{prefix}{entry.name}"
            if _is_image(entry.name):
                images.append(name)
            elif _is_folder(entry):
                heappush(waiting, _Folder(entry.is_symlink(), f"{name}/", Path(entry.path)))
            elif entry.is_symlink():
                folders.append(Path(entry.path))
    return Walk(sorted(images), folders)


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
    return frozenset(map(_inode, folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno in _LEADS_NOWHERE:
            return False
        raise _closed(entry.path, error) from error


def _closed(folder: str | Path, error: OSError) -> UserError:
    return UserError(f"Cannot look into '{folder}' ({error.strerror}); allow it, or remove it")


def _inode(folder: str | Path) -> Inode:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise _closed(folder, error) from error


def find_images(folder: Path) -> list[str]:
    """Relative paths of all image files below ``folder``, sorted; see :func:`walk`."""
    return walk(folder).images


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; none if it is missing.

    Hidden ones are left out, and links to the folder itself or to one that it lies in.
    """
    if not folder.is_dir():
        return []
    above = upwards(folder)
    return sorted(
        entry.name
        for entry in _entries(folder)
        if _is_folder(entry) and not (entry.is_symlink() and _inode(entry.path) in above)
    )


def files_by_class(folder: Path, classes: Sequence[str]) -> ImageFiles:
    """Files of ``folder/<class>/**``, labelled with the position of their class.

    Raises:
        UserError: If a class has no folder or no image, or a folder is not among ``classes``.
    """
    above = upwards(folder)
    found = {name: walk(folder / name, above) for name in {*class_folders(folder), *classes}}
    unknown = sorted(name for name in found if name not in classes and found[name].images)
    if unknown:
        raise UserError(
            f"Expected only class folders in '{folder}', but found {_some(unknown)}; "
            f"the classes are {_some(classes)}"
        )
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = found[name].images
        if not images:
            raise UserError(
                f"Expected images in class folder '{folder / name}', but "
                f"{contents(folder / name)}; complete it or remove the class"
            )
        names.extend(f"{name}/{image}" for image in images)
        labels.extend([label] * len(images))
    inner = (place for name in sorted(found) for place in found[name].folders)
    return ImageFiles(folder, tuple(names), tuple(labels), (folder, *_links(folder), *inner))


def _links(folder: Path) -> list[Path]:
    """Links in ``folder``: where they lead can change without it."""
    return sorted(Path(entry.path) for entry in _entries(folder) if entry.is_symlink())


def read_lines(path: Path) -> list[str]:
    """Lines of a text file.

    Raises:
        UserError: If it is no regular file, or no UTF-8 text.
    """
    try:
        require_regular(path)
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"Cannot read the list '{path}' ({error}); expected lines of UTF-8 text: download it "
            "again, or remove it"
        ) from error


def read_annotations(path: Path) -> dict[str, str]:
    """Class of each image from lines ``<file> <class> ...``, split at commas or blanks.

    Reads Tiny-ImageNet's ``val_annotations.txt``, ImageNet's ``LOC_val_solution.csv`` and
    lists of ``<file> <class>``. Keys are file names without suffix.

    Raises:
        UserError: If it is no text, or none of that kind.
    """
    rows = [re.split(r"[,\s]+", line) for line in read_lines(path) if line.strip()]
    found = {Path(row[0]).stem: row[1] for row in rows if len(row) > 1 and row[0] != "ImageId"}
    if rows and not found:
        raise UserError(
            f"Expected lines '<file> <class>' in '{path}', but found none; download it again, or "
            "remove it"
        )
    return found


def files_by_annotation(
    folder: Path, annotations: Mapping[str, str], classes: Sequence[str]
) -> ImageFiles:
    """Files directly in ``folder``, labelled by ``annotations``.

    Args:
        folder: Folder of images.
        annotations: Class name, or position of the class as digits, by file name without suffix.
        classes: Names in label order.

    Raises:
        UserError: If an image has no annotation or one that is not among ``classes``.
    """
    index = {name: label for label, name in enumerate(classes)}
    index |= {str(label): label for label in range(len(classes))}
    names = sorted(entry.name for entry in _entries(folder) if _is_image(entry.name))
    found = [annotations.get(Path(name).stem, "none") for name in names]
    for name, annotation in zip(names, found, strict=True):
        if annotation not in index:
            raise UserError(
                f"Expected a known class for every image in '{folder}', but the annotation of "
                f"'{name}' is '{annotation}'; complete the annotation file"
            )
    labels = tuple(index[annotation] for annotation in found)
    return ImageFiles(folder, tuple(names), labels, (folder,))


def contents(folder: Path) -> str:
    """What lies at ``folder``, in words, for error messages."""
    if not folder.exists():
        return "it does not exist"
    if not folder.is_dir():
        return "it is a file"
    return f"it holds {_some(sorted(entry.name for entry in folder.iterdir()))}"


def wrong_layout(root: Path, expected: str) -> UserError:
    """The error for a folder that is not laid out as a data set needs it."""
    return UserError(f"Expected {expected} in '{root}', but {contents(root)}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"


def _is_image(name: str) -> bool:
    _, dot, suffix = name.rpartition(".")  # a third of the time that `splitext` takes
    return f"{dot}{suffix}".lower() in IMAGE_SUFFIXES
