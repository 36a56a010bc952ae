"""Tables: one run for the terminal, many runs for the terminal, CSV and Markdown."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from src.common.errors import in_one_line
from src.report.aggregate import Row
from src.report.block import TOO_SMALL, Block, Part, blocks, notes, number
from src.report.collection import Damaged
from src.report.summary import FILE_NAME, Summary

_DAMAGED = (
    "1 summary left out; run the same command again, or remove the folder",
    "{} summaries left out; run the same commands again, or remove the folders",
)
_CLOSED = (
    "1 folder left out; ask for the right to read it, or name other folders",
    "{} folders left out; ask for the right to read them, or name other folders",
)
_MARKS = re.compile(r"[\\`*<]|(?<![^\W_])_|_(?![^\W_])")  # of Markdown; `_` within a word is none
_STAGES = ("teacher", "stage_a", "dictionary", "stage_b", "inside", "total")


def run_table(summary: Summary, folder: Path) -> RenderableType:
    """Where one run's files are, what it cost and, last, what it achieved, for the terminal.

    Lines with a path are longer than a narrow terminal: print it with ``crop=False``.
    """
    kdci = summary["kdci"]["name"]
    title = f"{summary['dataset']}, {summary['baseline']}, KDCI {kdci}, seed {summary['seed']}"
    heading = Text(f"{title}, budget {summary['budget']}: {summary['status']}", style="bold")
    if summary["status"] != "finished":
        return Group(heading, Text(first_line(summary.get("error"))))
    device = Text(f"Measured on: {summary['device']}")
    where = Text(f"Folder: {folder}", no_wrap=True, overflow="ignore")
    files = Text("Files: " + ", ".join([FILE_NAME, *summary.get("files", {}).values()]))
    headline = Text(_headline(summary), style="bold")
    tables = (_cost_table(summary), device, where, files, _accuracy_table(summary))
    return Group(heading, *tables, *_held_out(summary), headline)


def terminal_table(
    rows: Sequence[Row], unfinished: Sequence[Summary], damaged: Sequence[Damaged] = ()
) -> RenderableType:
    """Rich tables of accuracies, gains and cost per data set, budget, mode, teacher and student.

    Below them stand unfinished runs, and summaries that were left out.
    """
    parts = terminal_blocks(blocks(rows), notes(rows) if rows else [])
    parts += [Text(f"Not finished: {_failure(run)}") for run in unfinished]
    if damaged:
        parts += [Text(f"{left_out(damaged)}:"), *(Text(f"  {each.reason}") for each in damaged)]
    return Group(*parts)


def markdown_table(
    rows: Sequence[Row], unfinished: Sequence[Summary], damaged: Sequence[Damaged] = ()
) -> str:
    """The same tables as Markdown."""
    lines = markdown_blocks(blocks(rows), notes(rows) if rows else [])
    if unfinished:
        failures = [f"- {markdown_text(_failure(run))}" for run in unfinished]
        lines += ["### Not finished", "", *failures, ""]
    if damaged:
        reasons = [f"- {markdown_text(each.reason)}" for each in damaged]
        lines += ["### Left out", "", f"{left_out(damaged)}:", "", *reasons, ""]
    return "\n".join(lines)


def terminal_blocks(shown: Iterable[Block], remarks: Iterable[str]) -> list[RenderableType]:
    """Tables with their titles, and below them what they mean, for the terminal."""
    parts: list[RenderableType] = []
    for block in shown:
        parts.append(Text(block.title, style="bold"))
        for part in block.parts:
            parts += [_terminal_part(part), Text()]
    return [*parts, *map(Text, remarks)]


def markdown_blocks(shown: Iterable[Block], remarks: Iterable[str]) -> list[str]:
    """The same as lines of Markdown."""
    lines: list[str] = []
    for block in shown:
        lines += [f"### {block.title}", ""]
        for part in block.parts:
            lines += [*_markdown_part(part), ""]
    return [*lines, *(line for remark in remarks for line in (remark, ""))]


def markdown_text(text: str) -> str:
    """What somebody else has written, such as an error, in one line that is shown as it is."""
    return _MARKS.sub(r"\\\g<0>", in_one_line(text))


def left_out(damaged: Sequence[Damaged]) -> str:
    """How many summaries a table lacks, and what can be done."""
    closed = sum(each.is_closed for each in damaged)
    counts = ((len(damaged) - closed, _DAMAGED), (closed, _CLOSED))
    return "; ".join(one if n == 1 else many.format(n) for n, (one, many) in counts if n)


def csv_table(rows: Iterable[Any], kind: type = Row) -> str:
    """One CSV line per row, numbers in full, empty where there is none; lists are `;`-joined.

    What is said of the gain or of a stage's cost is a column of its own, such as ``gain_t_low``.

    Args:
        rows: Rows of ``kind``.
        kind: A dataclass, such as :class:`Row` or :class:`src.report.record.Record`.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_csv_names(kind))
    writer.writerows(map(_csv_cells, rows))
    return stream.getvalue()


def _csv_names(record: Any, prefix: str = "") -> list[str]:
    names: list[str] = []
    for field in fields(record):
        name = f"{prefix}{field.name}"
        kind: Any = field.type
        names += _csv_names(kind, f"{name}_") if is_dataclass(kind) else [name]
    return names


def _csv_cells(record: Any) -> list[str]:
    cells: list[str] = []
    for field in fields(record):
        value = getattr(record, field.name)
        cells += _csv_cells(value) if is_dataclass(value) else [_csv_value(value)]
    return cells


def _terminal_part(part: Part) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for n, name in enumerate(part.header):
        justify: Literal["left", "right"] = "left" if n < part.text_columns else "right"
        # Folding keeps every digit where the default would cut a number short.
        table.add_column(
            name,
            justify=justify,
            overflow="fold",
            vertical="bottom",
            max_width=_widest([name, *(line[n] for line in part.lines)]),
        )
    for _, lines in groupby(part.lines, key=lambda line: line[0]):
        for line in lines:
            table.add_row(*map(Text, line))
        table.add_section()
    return table


def _widest(cells: Sequence[str]) -> int:
    """Characters that a column needs; the words for a lack of pairs may stand in two lines."""
    lines = [line for cell in cells for line in _broken(cell).split("\n")]
    return max(map(len, lines))


def _broken(cell: str) -> str:
    return cell.replace("too small", "too\nsmall") if cell == TOO_SMALL else cell


def _markdown_part(part: Part) -> list[str]:
    rule = ["---" if n < part.text_columns else "--:" for n in range(len(part.header))]
    return [_markdown_line(cells) for cells in (part.header, rule, *part.lines)]


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
            table.add_row(name, number(value))
    return table


def _held_out(summary: Summary) -> list[Text]:
    found = summary.get("held_out")
    if found is None:
        return []
    images, agreement, chance = found["images"], found["agreement"], found["one_class"]
    text = f"Agreement with the teacher on {images} held-out substitution images: "
    text += f"{number(agreement)}%, one class for all would have {number(chance)}%"
    return [Text(text)]


def _cost_table(summary: Summary) -> Table:
    seconds, resumed = summary["seconds"], summary.get("resumed", [])
    memory = summary.get("peak_memory_mb_by_stage", {}) | {"total": summary["peak_memory_mb"]}
    table = Table("stage", "seconds", "peak memory, MiB")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in _STAGES:
        note = " (reused)" if stage == "stage_a" and summary["substitution"]["reused"] else ""
        if stage in resumed or (stage == "total" and resumed):
            note = " (of the last attempt)"
        table.add_row(stage + note, number(seconds.get(stage), 1), number(memory.get(stage), 0))
    return table


def _headline(summary: Summary) -> str:
    last = number(summary["acc1"]["last"])
    return f"Student {summary['student']['name']}, last epoch, plain network: {last}%"


def _failure(summary: Summary) -> str:
    names = (summary["dataset"], summary["budget"], summary["baseline"], summary["kdci"]["name"])
    run = f"{' '.join(names)} seed {summary['seed']} ({summary.get('folder', '?')})"
    if summary["status"] == "running":
        return f"{run}: running"
    return f"{run}: {summary['status']}, {first_line(summary.get('error'))}"


def first_line(error: str | None) -> str:
    """Of what went wrong."""
    return error.strip().splitlines()[0] if error and error.strip() else "no error recorded"


def _markdown_line(cells: Sequence[str]) -> str:
    lines = (in_one_line(cell) for cell in cells)
    # The backslash first: one that stands before a bar would end the cell.
    shown = (line.replace("\\", r"\\").replace("|", r"\|") for line in lines)
    return f"| {' | '.join(shown)} |"


def _csv_value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ";".join(map(str, value))
    return str(value)
