"""Where the splits of a data set lie, and what to say when it is the wrong folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.common.errors import UserError, nearest
from src.dataset.listing import class_folders, contents, some
from src.dataset.walk import entries, is_image

TRAIN = ("train", "training")
VALIDATION = ("val", "validation", "valid")
EVALUATION = ("test", "testing", *VALIDATION)
_DEEPEST = 2


@dataclass(frozen=True)
class Splits:
    """Where splits lie.

    Attributes:
        home: The folder of the data set.
        train: Folder of the train split, if there is one.
        test: Folder of the split that is evaluated on, if there is one.
        notes: What was decided on the way, in words.
        folders: All folders whose entries decide on it.
        around: The home, and the folders above it that are part of the data set too.
    """

    home: Path
    train: Path | None
    test: Path | None
    notes: tuple[str, ...]
    folders: tuple[Path, ...]
    around: tuple[Path, ...]


def find_splits(root: Path, evaluation: Sequence[str], usual: Sequence[str] = ()) -> Splits:
    """Splits in ``root``, else where archives put them, one level up, or up to two levels down.

    Names count in any case. Of several evaluation splits the first in the order of ``evaluation``
    is taken that shares class folders with the train split, else the first that has any: ``test``
    of Tiny-ImageNet has a folder of images without labels.

    Args:
        root: The folder given.
        evaluation: Names of what to evaluate on, the preferred first.
        usual: Paths within ``root`` that the data set's own archive has.

    Raises:
        UserError: If several folders in ``root`` could be the data set.
    """
    visited: list[Path] = []
    home = _home(root, evaluation, usual, visited)
    trains, tests = _named(home, TRAIN), _named(home, evaluation)
    train = _chosen(trains)
    known = set(class_folders(train)) if train else set()
    test = next((path for path in tests if known & {*class_folders(path)}), _chosen(tests))
    notes = [] if home == root else [f"The data set of '{root}' was found in '{home}'"]
    for split, taken, found in (("train", train, trains), ("test", test, tests)):
        unused = [path.name for path in found if path != taken]
        if taken is not None and unused:
            notes.append(
                f"The {split} split is '{taken.name}' in '{home}'; not used: {some(unused)}"
            )
    folders = (*visited, home, *trains, *tests)
    return Splits(home, train, test, tuple(notes), folders, _around(home, root, usual))


def _home(
    root: Path, evaluation: Sequence[str], usual: Sequence[str], visited: list[Path]
) -> Path:
    names = (*TRAIN, *evaluation)
    visited.append(root)
    if _named(root, names):
        return root
    for inner in usual:
        place = root / inner
        visited += [place, *(folder for folder in place.parents if root in folder.parents)]
        if _named(place, names):
            return place
    above = root.absolute().parent
    if root.name.lower() in names and root.is_dir():
        visited.append(above)
        if _named(above, TRAIN) and _named(above, evaluation):
            return above
    return _below(root, visited)


def _below(root: Path, visited: list[Path]) -> Path:
    """The one folder in ``root`` that holds a train split of class folders, else ``root``."""
    level = [root]
    for _ in range(_DEEPEST):
        level = [folder / name for folder in level for name in class_folders(folder)]
        trains = {folder: _named(folder, TRAIN) for folder in level}
        visited += [*level, *(train for found in trains.values() for train in found)]
        found = [folder for folder in level if any(map(class_folders, trains[folder]))]
        if len(found) > 1:
            candidates = some([str(folder.relative_to(root)) for folder in found])
            raise UserError(
                f"Expected one data set in '{root}', but found train splits in {candidates}; set "
                "`root` to one of these folders"
            )
        if found:
            return found[0]
    return root


def _around(home: Path, root: Path, usual: Sequence[str]) -> tuple[Path, ...]:
    """Lists lie beside the splits or further up, also where the splits themselves are given."""
    above = home.absolute()
    depth = above.parents.index(root.absolute()) + 1 if root.absolute() in above.parents else 0
    for inner in map(Path, usual):
        if above.parts[-len(inner.parts) :] == inner.parts:
            depth = max(depth, len(inner.parts))
    return (home, *above.parents[:depth])


def _named(folder: Path, names: Sequence[str]) -> list[Path]:
    """Folders of these names in any case: in their order, and in lower case first."""
    found = [name for name in class_folders(folder) if name.lower() in names]
    found.sort(key=lambda name: (names.index(name.lower()), name != name.lower(), name))
    return [folder / name for name in found]


def _chosen(found: Sequence[Path]) -> Path | None:
    return next(filter(class_folders, found), found[0] if found else None)


def wrong_layout(root: Path, expected: str) -> UserError:
    """The error for a folder that is not laid out as a data set needs it."""
    cure = next(_cures(root), "") if root.is_dir() else ""
    cure = cure if root.exists() else _elsewhere(root)
    return UserError(f"Expected {expected} in '{root}', but {contents(root)}{cure}")


def _elsewhere(root: Path) -> str:
    """What to do about a folder that is not there."""
    beside = entries(root.parent) if root.parent.is_dir() else []
    found = nearest(root.name, [entry.name for entry in beside if entry.is_dir()])
    return found or "; say where it lies, as in dataset.root=FOLDER or pool.root=FOLDER"


def _cures(root: Path) -> Iterator[str]:
    """What seems to have happened to a folder, and what to do."""
    found = entries(root)
    if any("\\" in entry.name for entry in found):
        yield (
            "; names with backslashes come of a zip file that was made on Windows: unpack it "
            "again with `unzip` or 7-Zip, which make folders of them"
        )
    splits = _named(root, (*TRAIN, *EVALUATION))
    for split in splits:
        flat = sorted(entry.name for entry in entries(split) if is_image(entry.name))
        if flat and not class_folders(split):
            yield (
                f"; '{split.name}' holds images ({some(flat)}) but no class folders: put those of "
                f"each class into '{split.name}/<class>/'"
            )
    if not splits and class_folders(root):
        yield (
            "; if these folders are classes, move them into 'train/', and images of the same "
            "classes for evaluation into 'test/'"
        )
