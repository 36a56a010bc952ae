"""Deleting what failed runs have left."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.common.errors import UserError
from src.common.sealed import DamagedError
from src.report.collection import read_summaries, unheld
from src.report.summary import FILE_NAME, PREVIOUS, read_summary, read_whole


class Discarded(NamedTuple):
    """What was done.

    Attributes:
        folders: Deleted.
        refused: One line for each folder that was left although it might have failed.
    """

    folders: list[Path]
    refused: list[str]


def discard_failed(paths: Sequence[Path]) -> Discarded:
    """Delete the folders of all failed runs among and below ``paths``.

    Only a whole summary that says ``failed`` makes a folder deletable; interrupted and running
    runs, and whatever is damaged, stay, and so does one that holds the result of an earlier
    attempt, or that only a link leads to.

    Raises:
        UserError: If a path is missing, is a run that has not failed, or holds no run at all;
            then nothing has been deleted.
    """
    found = read_summaries(paths)
    for path in paths:
        _require_failed(path)
    if not (found.summaries or found.damaged):
        raise UserError(
            f"Expected a {FILE_NAME} below {', '.join(map(str, paths))}, but found none"
        )
    cure = "look, then remove it"
    result = Discarded([], [damage.with_cure(cure) for damage in found.damaged])
    for summary in found.summaries:
        folder = Path(summary["folder"])
        if summary["status"] != "failed":
            continue
        refusal = _refusal(folder, paths) or _delete(folder)
        if refusal is None:
            result.folders.append(folder)
        else:
            result.refused.append(f"'{folder}' {refusal}")
    return result


def _require_failed(path: Path) -> None:
    """A run that is named itself, and not found below a folder, must have failed."""
    summary = path / FILE_NAME if path.is_dir() else path
    if not os.path.lexists(summary):
        return
    if summary.name != FILE_NAME:
        raise UserError(f"Expected a run folder or a {FILE_NAME}, but got '{path}'")
    status = read_summary(summary)["status"]
    if status != "failed":
        raise UserError(
            f"Expected a failed run, but '{path}' says {status}; remove it yourself if you mean it"
        )


def _refusal(folder: Path, paths: Sequence[Path]) -> str | None:
    """What else hangs on the folder, in words."""
    here = folder.resolve()
    if folder.is_symlink() or (folder / FILE_NAME).is_symlink():
        return "is a link"
    if not any(here.is_relative_to(_top(path)) for path in paths):
        return f"lies behind a link, in '{here}'; name that folder if you mean it"
    if here == Path.cwd() or here in Path.cwd().parents:
        return "is the working directory, or holds it"
    if len(list(here.rglob(FILE_NAME))) > 1:
        return "holds other runs too"
    return None


def _top(path: Path) -> Path:
    """Where all lies that is reached from a path without links."""
    return (path if path.is_dir() else path.parent).resolve()


def _delete(folder: Path) -> str | None:
    with unheld(folder) as free:
        if not free:
            return "is in use"
        try:
            if read_whole(folder / FILE_NAME)["status"] != "failed":
                return "has been started again"
            if os.path.lexists(folder / PREVIOUS):
                return (
                    f"holds an earlier result ({PREVIOUS}); run its command again, or rename that "
                    f"file to {FILE_NAME} to have the result back"
                )
            shutil.rmtree(folder.resolve())
        except DamagedError as damage:
            return f"has changed: {damage}"
        except OSError as error:
            return f"cannot be removed ({error.strerror}: '{error.filename}')"
    return None
