"""Which image files a folder holds."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from src.common.errors import UserError
from src.common.files import sha256_file
from src.common.memory import Stamp, settled, stamp
from src.dataset.decode import refuse_passing, require_regular
from src.dataset.walk import entries, inode_of, is_folder, is_image, upwards, walk

_SHOWN = 5


@dataclass(frozen=True)
class ImageFiles:
    """Image files in a fixed order.

    Attributes:
        root: Folder that ``names`` are relative to.
        names: Relative paths.
        labels: One label a file, 0 where there are none.
        folders: All folders that were looked into, those without an image too.
        classes: Names in label order; none in a pool.
        others: How many files beside the images have a suffix of no image, by suffix.
    """

    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]
    folders: tuple[Path, ...] = ()
    classes: tuple[str, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        """The files, with their folder."""
        return [f"{self.root}{os.sep}{name}" for name in self.names]

    @property
    def sources(self) -> list[str | Path]:
        """Files and folders that the list and its content depend on."""
        return [*self.folders, *self.paths]  # a `Path` a file would take most of the time

    @property
    def notes(self) -> list[str]:
        """What a list leaves out or lacks, in words."""
        found = []
        if self.others:
            found.append(f"Left out of '{self.root}', as no images: {by_suffix(self.others)}")
        have = set(self.labels)
        empty = [name for label, name in enumerate(self.classes) if label not in have]
        if empty:
            found.append(
                f"{len(empty)} of {len(self.classes)} classes have no image in '{self.root}' "
                f"({some(empty)}): accuracy is over the others"
            )
        return found

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
        """Hash of names, labels and file contents: equal for equal copies on any machine.

        Raises:
            UserError: If a file cannot be read for a reason that may pass.
        """
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
        refuse_passing(error, path)
        return f"unreadable: {error.strerror}"


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; none if it is missing.

    Hidden ones are left out, and links to the folder itself or to one that it lies in.
    """
    if not folder.is_dir():
        return []
    above = upwards(folder)
    return sorted(
        entry.name
        for entry in entries(folder)
        if is_folder(entry) and not (entry.is_symlink() and inode_of(entry.path) in above)
    )


def natural(name: str) -> list[tuple[str, int, str]]:
    """Key that sorts names with their numbers by value: "2" before "10"."""
    parts = re.findall(r"(\D*)(\d*)", name)
    return [(text, int(digits or -1), digits) for text, digits in parts]


def files_by_class(folder: Path, classes: Sequence[str], *, may_lack: bool = False) -> ImageFiles:
    """Files of ``folder/<class>/**``, labelled with the position of their class.

    Args:
        folder: Folder of class folders.
        classes: Names in label order.
        may_lack: Whether classes may be without an image, though not all.

    Raises:
        UserError: If a class has no folder or no image, or a folder is not among ``classes``.
    """
    above = upwards(folder)
    found = {name: walk(folder / name, above) for name in {*class_folders(folder), *classes}}
    unknown = sorted(name for name in found if name not in classes and found[name].images)
    if unknown:
        raise UserError(
            f"Expected only class folders in '{folder}', but found {some(unknown)}; "
            f"the classes are {some(classes)}{_alike(unknown, classes)}"
        )
    empty = [name for name in classes if not found[name].images]
    if empty and (not may_lack or len(empty) == len(classes)):
        raise _empty_class(folder / empty[0], found[empty[0]].others)
    names: list[str] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for label, name in enumerate(classes):
        images = found[name].images
        names.extend(f"{name}/{image}" for image in images)
        labels.extend([label] * len(images))
        others.update(found[name].others)
    inner = (place for name in sorted(found) for place in found[name].folders)
    return ImageFiles(
        folder,
        tuple(names),
        tuple(labels),
        (folder, *_links(folder), *inner),
        tuple(classes),
        others,
    )


def _empty_class(folder: Path, others: Mapping[str, int]) -> UserError:
    left_out = f" and no image that is read here ({by_suffix(others)})" if others else ""
    return UserError(
        f"Expected images in class folder '{folder}', but {contents(folder)}{left_out}; complete "
        "it or remove the class"
    )


def _alike(unknown: Sequence[str], classes: Sequence[str]) -> str:
    """The first two names that differ only in case, separators or the form of their Unicode."""
    known = {_folded(name): name for name in classes}
    for name in unknown:
        twin = known.get(_folded(name))
        if twin is not None:
            shown = repr if _nfc(name) != _nfc(twin) else ascii  # these two look the same
            return f"; {shown(name)} is probably {shown(twin)}: rename one of them"
    return ""


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", _nfc(name).casefold())


def _nfc(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _links(folder: Path) -> list[Path]:
    """Links in ``folder``: where they lead can change without it."""
    return sorted(Path(entry.path) for entry in entries(folder) if entry.is_symlink())


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
    names = sorted(entry.name for entry in entries(folder) if is_image(entry.name))
    found = [annotations.get(Path(name).stem, "none") for name in names]
    for name, annotation in zip(names, found, strict=True):
        if annotation not in index:
            raise UserError(
                f"Expected a known class for every image in '{folder}', but the annotation of "
                f"'{name}' is '{annotation}'; complete the annotation file"
            )
    labels = tuple(index[annotation] for annotation in found)
    return ImageFiles(folder, tuple(names), labels, (folder,), tuple(classes))


def contents(folder: Path) -> str:
    """What lies at ``folder``, in words, for error messages."""
    if not folder.exists():
        return "it does not exist"
    if not folder.is_dir():
        return "it is a file"
    return f"it holds {some(sorted(entry.name for entry in folder.iterdir()))}"


def by_suffix(counts: Mapping[str, int]) -> str:
    """Numbers of files by suffix in words, the most frequent first."""
    order = sorted(counts, key=lambda suffix: (-counts[suffix], suffix))
    return some([f"{counts[suffix]} {suffix or 'without suffix'}" for suffix in order])


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"
