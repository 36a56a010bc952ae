"""The table at the end of a sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from src.common.errors import UserError
from src.common.files import atomic_write, lock
from src.common.sealed import DamagedError, read_own
from src.report.aggregate import aggregate
from src.report.apart import without_contradictions
from src.report.collection import Found
from src.report.console import console
from src.report.summary import FILE_NAME, Summary, read_summary
from src.report.table import csv_table, markdown_table, markdown_text, terminal_table

_TEACHER_FOLDER = "teacher_"  # how folders of points begin that only train a teacher


class Failure(NamedTuple):
    """A point that has no result."""

    point: str  # its overrides, or where its record should be
    reason: str


def report_sweep(folder: Path, records: Sequence[Path], *, wait: bool = True) -> int:
    """Write the tables over all points into ``folder`` as CSV and Markdown, and print them.

    Args:
        folder: The sweep's.
        records: A ``point.json`` of every point: overrides, exit code, run folder, error. One
            that is missing or damaged is a failed point; so is one that says that it is
            finished while its summary does not, and each of those that are equal but for their
            results.
        wait: Wait for points that another call of the sweep has come to; else they are failures.

    Returns:
        Number of points that failed.

    Raises:
        UserError: If the disk does not take the tables.
    """
    ended = [_ended(record, wait=wait) for record in records]
    # Vanilla points share a folder.
    summaries = {found["folder"]: found for _, found in ended if isinstance(found, dict)}
    kept = without_contradictions(Found([summaries[each] for each in sorted(summaries)], []))
    cure = "remove the wrong one and run the same sweep again"
    contradicted = {str(each.path.parent): each.with_cure(cure) for each in kept.damaged}
    failed = []
    for point, found in ended:
        if isinstance(found, Failure):
            failed.append(found)
        elif found is not None and found["folder"] in contradicted:
            failed.append(Failure(point, contradicted[found["folder"]]))
    rows = aggregate(kept.summaries)
    lines = [f"- failed: `{point}`: {markdown_text(reason)}" for point, reason in failed]
    _write(folder / "table.md", "\n".join([markdown_table(rows, []), *lines]) + "\n")
    _write(folder / "table.csv", csv_table(rows))
    # The screen comes last: what it does not take costs no file.
    screen = console()
    screen.print(terminal_table(rows, []))
    for point, reason in failed:
        screen.print(f"failed: {point}: {reason}", markup=False)
    screen.print(f"{len(records)} points, {len(failed)} failed; table in {folder}", markup=False)
    return len(failed)


def result_of(record: Path) -> Summary | Failure | None:
    """Summary of a finished point, None if it only trained a teacher, or why it failed.

    Where another call of the sweep has come to the point, this waits until it has ended there.

    Args:
        record: Its ``point.json``.
    """
    return _ended(record, wait=True)[1]


def _ended(record: Path, *, wait: bool) -> tuple[str, Summary | Failure | None]:
    """What a point is called, its overrides if they are known, and what became of it."""
    name = str(record.parent)
    try:
        with lock(record.parent, wait=wait):
            point = read_own(record, point_name(record.parent))
    except DamagedError as error:
        return name, Failure(name, f"{error}; run the same sweep again")
    except UserError as error:
        return name, Failure(name, str(error))
    name = " ".join(point["overrides"])
    found = _result(point)
    return name, Failure(name, found) if isinstance(found, str) else found


def _result(point: Mapping[str, Any]) -> Summary | str | None:
    """Summary of a point that has finished, if it has one; in words why it has not finished."""
    if point["exit_code"] != 0:
        return str(point["error"] or f"exit code {point['exit_code']}")
    if not point["folder"]:
        return "it has ended without saying where its run lies; run the same sweep again"
    path = Path(point["folder"]) / FILE_NAME
    if path.parent.parent.name.startswith(_TEACHER_FOLDER) and not path.exists():
        return None
    try:
        summary = read_summary(path)
    except UserError as error:
        return str(error)
    return summary if summary["status"] == "finished" else f"'{path}' says {summary['status']}"


def point_name(folder: Path) -> str:
    """What a point's record calls itself, wherever its sweep is moved: sweep and point."""
    return "/".join(folder.absolute().parts[-2:])


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
