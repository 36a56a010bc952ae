"""Tables: one run for the terminal, many runs for the terminal, CSV and Markdown."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from src.report.aggregate import Row
from src.report.collection import Damaged
from src.report.summary import FILE_NAME, Summary

_STAGES = ("teacher", "stage_a", "dictionary", "stage_b", "total")
_COLUMNS = (
    "baseline",
    "KDCI",
    "N",
    "settings",
    "seeds",
    "last",
    "best",
    "comp.",
    "gain (pairs)",
    "seconds",
    "MiB",
    "reused",
)
_NUM_TEXT_COLUMNS = 4
_EMPTY = "-"
_NOTE = (
    "Accuracies: percent on the test split, mean ± sample standard deviation over seeds; "
    "comp.: with the compensation left on at test time; gain: last minus that of the vanilla "
    "run of the same seed. Reused: runs whose seconds leave out stage (a)."
)


def run_table(summary: Summary, folder: Path) -> RenderableType:
    """Where one run's files are, what it cost and, last, what it achieved, for the terminal.

    Lines with a path are longer than a narrow terminal: print it with ``crop=False``.
    """
    kdci = summary["kdci"]["name"]
    title = f"{summary['dataset']}, {summary['baseline']}, KDCI {kdci}, seed {summary['seed']}"
    heading = Text(f"{title}, budget {summary['budget']}: {summary['status']}", style="bold")
    if summary["status"] != "finished":
        return Group(heading, Text(_first_line(summary.get("error"))))
    device = Text(f"Measured on: {summary['device']}")
    where = Text(f"Folder: {folder}", no_wrap=True, overflow="ignore")
    files = Text("Files: " + ", ".join([FILE_NAME, *summary.get("files", {}).values()]))
    headline = Text(_headline(summary), style="bold")
    tables = (_cost_table(summary), device, where, files, _accuracy_table(summary))
    return Group(heading, *tables, headline)


def terminal_table(
    rows: Sequence[Row], unfinished: Sequence[Summary], damaged: Sequence[Damaged] = ()
) -> RenderableType:
    """One rich table per data set, budget, mode, teacher and student.

    Below them stand unfinished runs, and summaries that were left out.
    """
    parts: list[RenderableType] = []
    for title, group in groupby(rows, key=_title):
        parts += [Text(title, style="bold"), _block_table(list(group))]
    if rows:
        parts.append(Text(_notes(rows)))
    parts += [Text(f"Not finished: {_failure(run)}") for run in unfinished]
    if damaged:
        parts += [Text(f"{left_out(damaged)}:"), *(Text(f"  {each.reason}") for each in damaged)]
    return Group(*parts)


def markdown_table(
    rows: Sequence[Row], unfinished: Sequence[Summary], damaged: Sequence[Damaged] = ()
) -> str:
    """The same tables as Markdown."""
    lines: list[str] = []
    for title, group in groupby(rows, key=_title):
        rule = ["---" if number < _NUM_TEXT_COLUMNS else "--:" for number in range(len(_COLUMNS))]
        lines += [f"### {title}", "", _markdown_line(_COLUMNS), _markdown_line(rule)]
        lines += [_markdown_line(_cells(row)) for row in group]
        lines.append("")
    if rows:
        lines += [_notes(rows), ""]
    if unfinished:
        lines += ["### Not finished", "", *(f"- {_failure(run)}" for run in unfinished), ""]
    if damaged:
        reasons = [f"- {each.reason}" for each in damaged]
        lines += ["### Left out", "", f"{left_out(damaged)}:", "", *reasons, ""]
    return "\n".join(lines)


def left_out(damaged: Sequence[Damaged]) -> str:
    """How many summaries a table lacks, and what can be done."""
    one = len(damaged) == 1
    number = "1 summary" if one else f"{len(damaged)} summaries"
    cure = (
        "the same command again, or remove the folder"
        if one
        else "the same commands again, or remove the folders"
    )
    return f"{number} left out; run {cure}"


def csv_table(rows: Iterable[Row]) -> str:
    """One CSV line per row, plain numbers, empty where there is none; lists are `;`-joined."""
    names = [field.name for field in fields(Row)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_csv_value(getattr(row, name)) for name in names] for row in rows)
    return stream.getvalue()


def _block_table(rows: Sequence[Row]) -> Table:
    cells = [_cells(row) for row in rows]
    shown = [n for n in range(len(_COLUMNS)) if any(line[n] != _EMPTY for line in cells)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for n in shown:
        justify: Literal["left", "right"] = "left" if n < _NUM_TEXT_COLUMNS else "right"
        # Folding keeps every digit where the default would cut a number short.
        table.add_column(_COLUMNS[n], justify=justify, overflow="fold")
    for _, block in groupby(zip(rows, cells, strict=True), key=lambda pair: pair[0].baseline):
        for _, line in block:
            table.add_row(*(Text(line[n]) for n in shown))
        table.add_section()
    return table


def _accuracy_table(summary: Summary) -> Table:
    accuracy, teacher = summary["acc1"], summary["teacher"]
    student = summary["student"]["name"]
    table = Table("network", "test accuracy, %")
    table.columns[1].justify = "right"
    for name, value in (
        (f"teacher {teacher['name']}", teacher["acc1"]),
        (f"student {student}, last", accuracy["last"]),
        (f"student {student}, best", accuracy["best"]),
        (f"student {student}, compensated", accuracy.get("compensated")),
        (f"student {student}, alongside stage (a)", accuracy.get("stage_a")),
    ):
        if value is not None:
            table.add_row(name, _number(value))
    return table


def _cost_table(summary: Summary) -> Table:
    seconds = summary["seconds"]
    memory = summary.get("peak_memory_mb_by_stage", {}) | {"total": summary["peak_memory_mb"]}
    table = Table("stage", "seconds", "peak memory, MiB")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in _STAGES:
        reused = stage == "stage_a" and summary["substitution"]["reused"]
        name = f"{stage} (reused)" if reused else stage
        table.add_row(name, _number(seconds.get(stage), 1), _number(memory.get(stage), 0))
    return table


def _headline(summary: Summary) -> str:
    last = _number(summary["acc1"]["last"])
    return f"Student {summary['student']['name']}, last epoch, plain network: {last}%"


def _title(row: Row) -> str:
    teacher = f"{row.teacher} ({_number(row.teacher_acc1)})"
    return f"{row.dataset}: {teacher} -> {row.student}, budget {row.budget}, {row.mode}"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.baseline,
        row.kdci,
        row.num_prototypes or _EMPTY,
        " ".join(row.settings) or _EMPTY,
        str(len(row.seeds)),
        _spread(_number(row.last_mean), row.last_std),
        _number(row.best_mean),
        _number(row.compensated_mean),
        _gain(row),
        _number(row.seconds, 1),
        _number(row.peak_memory_mb, 0),
        f"{row.reused}/{len(row.seeds)}",
    )


def _number(value: float | None, digits: int = 2) -> str:
    return _EMPTY if value is None else f"{value:.{digits}f}"


def _spread(mean: str, std: float | None) -> str:
    return f"{mean} ± {_number(std)}"


def _gain(row: Row) -> str:
    if row.gain_mean is None:
        return _EMPTY
    return f"{_spread(f'{row.gain_mean:+.2f}', row.gain_std)} ({row.gain_pairs})"


def _notes(rows: Sequence[Row]) -> str:
    devices = sorted({device for row in rows for device in row.devices})
    notes = f"{_NOTE} Measured on: {', '.join(devices)}."
    copies = [copy for row in rows for copy in row.copies]
    return f"{notes} Counted once, being copies: {', '.join(copies)}." if copies else notes


def _failure(summary: Summary) -> str:
    names = (summary["dataset"], summary["budget"], summary["baseline"], summary["kdci"]["name"])
    run = f"{' '.join(names)} seed {summary['seed']} ({summary.get('folder', '?')})"
    if summary["status"] == "running":
        return f"{run}: running"
    return f"{run}: {summary['status']}, {_first_line(summary.get('error'))}"


def _first_line(error: str | None) -> str:
    return error.strip().splitlines()[0] if error and error.strip() else "no error recorded"


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def _csv_value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ";".join(map(str, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
