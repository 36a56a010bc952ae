"""Which image files a folder holds, and what to say when it is the wrong folder."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from src.common.errors import UserError
from src.common.files import content_hash, sha256_file
from src.dataset.decode import IMAGE_SUFFIXES

_SHOWN = 5


@dataclass(frozen=True)
class ImageFiles:
    """Image files in a fixed order.

    Attributes:
        root: Folder that ``names`` are relative to.
        names: Relative paths.
        labels: One label a file, 0 where there are none.
    """

    root: Path
    names: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def paths(self) -> list[str]:
        """The files, with their folder."""
        return [os.path.join(self.root, name) for name in self.names]

    def signature(self) -> str:
        """Hash of names, labels, sizes and times of change: quick, for this machine's cache."""
        with _readable():
            stats = [os.stat(path) for path in self.paths]
        changes = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
        return content_hash([self.names, self.labels, changes])

    def fingerprint(self) -> str:
        """Hash of names, labels and file contents: equal for equal copies on any machine."""
        with _readable(), ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as threads:
            hashes = list(threads.map(lambda path: sha256_file(Path(path)), self.paths))
        lines = zip(self.names, self.labels, hashes, strict=True)
        return hashlib.sha256(repr(list(lines)).encode()).hexdigest()


def find_images(folder: Path) -> list[str]:
    """Relative paths of all image files below ``folder``, sorted; hidden ones left out."""
    found: list[str] = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inner = os.path.relpath(parent, folder)
        found.extend(os.path.normpath(f"{inner}/{name}") for name in files if _is_image(name))
    return sorted(found)


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; hidden ones left out, none if it is missing."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")


def files_by_class(folder: Path, classes: Sequence[str]) -> ImageFiles:
    """Files of ``folder/<class>/**``, labelled with the position of their class.

    Raises:
        UserError: If a class has no folder or no image, or a folder is not among ``classes``.
    """
    others = [name for name in class_folders(folder) if name not in classes]
    unknown = [name for name in others if find_images(folder / name)]
    if unknown:
        raise UserError(
            f"Expected only class folders in '{folder}', but found {_some(unknown)}; "
            f"the classes are {_some(classes)}"
        )
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = find_images(folder / name)
        if not images:
            raise UserError(
                f"Expected images in class folder '{folder / name}', but "
                f"{contents(folder / name)}; complete it or remove the class"
            )
        names.extend(f"{name}/{image}" for image in images)
        labels.extend([label] * len(images))
    return ImageFiles(folder, tuple(names), tuple(labels))


def read_annotations(path: Path) -> dict[str, str]:
    """Class of each image from lines ``<file> <class> ...``, split at commas or blanks.

    Reads Tiny-ImageNet's ``val_annotations.txt``, ImageNet's ``LOC_val_solution.csv`` and
    lists of ``<file> <class>``. Keys are file names without suffix.
    """
    rows = (re.split(r"[,\s]+", line) for line in path.read_text().splitlines())
    return {Path(row[0]).stem: row[1] for row in rows if len(row) > 1 and row[0] != "ImageId"}


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
    names = sorted(p.name for p in folder.iterdir() if _is_image(p.name))
    found = [annotations.get(Path(name).stem, "none") for name in names]
    for name, annotation in zip(names, found, strict=True):
        if annotation not in index:
            raise UserError(
                f"Expected a known class for every image in '{folder}', but the annotation of "
                f"'{name}' is '{annotation}'; complete the annotation file"
            )
    return ImageFiles(folder, tuple(names), tuple(index[annotation] for annotation in found))


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
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Cannot read '{error.filename}' ({error.strerror}); repair or remove it"
        ) from error
