"""The table at the end of a sweep."""

import json
from collections.abc import Sequence
from pathlib import Path

from src.report.aggregate import aggregate
from src.report.console import console
from src.report.summary import FILE_NAME, read_summaries
from src.report.table import csv_table, markdown_table, terminal_table


def report_sweep(folder: Path, records: Sequence[Path]) -> int:
    """Print one table over all points and write it into ``folder`` as CSV and Markdown.

    Args:
        folder: The sweep's.
        records: A ``point.json`` of every point: overrides, exit code, run folder, error.

    Returns:
        Number of points that failed.
    """
    points = [json.loads(record.read_text()) for record in records]
    done = {Path(p["folder"]) / FILE_NAME for p in points if p["exit_code"] == 0}
    # A point that only trains a teacher leaves no summary.
    rows = aggregate(read_summaries(path for path in done if path.is_file()))
    failed = [point for point in points if point["exit_code"] != 0]
    screen = console()
    screen.print(terminal_table(rows, []))
    for point in failed:
        screen.print(f"failed: {' '.join(point['overrides'])}: {point['error']}", markup=False)
    lines = [f"- failed: `{' '.join(p['overrides'])}`: {p['error']}" for p in failed]
    (folder / "table.md").write_text("\n".join([markdown_table(rows, []), *lines]) + "\n")
    (folder / "table.csv").write_text(csv_table(rows))
    screen.print(f"{len(points)} points, {len(failed)} failed; table in {folder}", markup=False)
    return len(failed)
