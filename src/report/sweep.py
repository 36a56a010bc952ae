"""The table at the end of a sweep."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from src.common.errors import UserError
from src.common.files import atomic_write
from src.common.sealed import DamagedError, read_own
from src.report.aggregate import aggregate
from src.report.console import console
from src.report.summary import FILE_NAME, Summary, read_summary
from src.report.table import csv_table, markdown_table, markdown_text, terminal_table

_TEACHER_FOLDER = "teacher_"  # how folders of points begin that only train a teacher


class Failure(NamedTuple):
    """A point that has no result."""

    point: str  # its overrides, or where its record should be
    reason: str


def report_sweep(folder: Path, records: Sequence[Path]) -> int:
    """Print the tables over all points and write them into ``folder`` as CSV and Markdown.

    Args:
        folder: The sweep's.
        records: A ``point.json`` of every point: overrides, exit code, run folder, error. One
            that is missing or damaged is a failed point; so is one that says that it is
            finished while its summary does not.

    Returns:
        Number of points that failed.
    """
    summaries: dict[str, Summary] = {}
    failed = []
    for record in records:
        found = result_of(record)
        if isinstance(found, Failure):
            failed.append(found)
        elif found is not None:
            summaries[found["folder"]] = found  # vanilla points share a folder
    rows = aggregate([summaries[folder] for folder in sorted(summaries)])
    screen = console()
    screen.print(terminal_table(rows, []))
    for point, reason in failed:
        screen.print(f"failed: {point}: {reason}", markup=False)
    lines = [f"- failed: `{point}`: {markdown_text(reason)}" for point, reason in failed]
    _write(folder / "table.md", "\n".join([markdown_table(rows, []), *lines]) + "\n")
    _write(folder / "table.csv", csv_table(rows))
    screen.print(f"{len(records)} points, {len(failed)} failed; table in {folder}", markup=False)
    return len(failed)


def result_of(record: Path) -> Summary | Failure | None:
    """Summary of a finished point, None if it only trained a teacher, or why it failed.

    Args:
        record: Its ``point.json``.
    """
    try:
        point = read_own(record, point_name(record.parent))
    except DamagedError as error:
        return Failure(str(record.parent), f"{error}; run the same sweep again")
    overrides = " ".join(point["overrides"])
    if point["exit_code"] != 0:
        return Failure(overrides, point["error"] or f"exit code {point['exit_code']}")
    path = Path(point["folder"]) / FILE_NAME
    if path.parent.parent.name.startswith(_TEACHER_FOLDER) and not path.exists():
        return None
    try:
        summary = read_summary(path)
    except UserError as error:
        return Failure(overrides, str(error))
    if summary["status"] != "finished":
        return Failure(overrides, f"'{path}' says {summary['status']}")
    return summary


def point_name(folder: Path) -> str:
    """What a point's record calls itself, wherever its sweep is moved: sweep and number."""
    return "/".join(folder.absolute().parts[-2:])


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
