"""``python -m src.report outputs/``: the table of all runs below the given folders."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from src.common.errors import UserError
from src.common.files import atomic_write
from src.report.aggregate import aggregate
from src.report.console import console
from src.report.summary import read_summaries
from src.report.table import csv_table, markdown_table, terminal_table


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table, write the asked-for files, and return the exit code (2: bad input)."""
    arguments = _parser().parse_args(argv)
    try:
        _report(arguments)
    except (UserError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _report(arguments: argparse.Namespace) -> None:
    summaries = read_summaries(arguments.paths)
    if not summaries:
        looked = ", ".join(map(str, arguments.paths))
        raise UserError(f"{looked}: expected at least one summary.json, but found none")
    rows = aggregate(summaries, by_seed=arguments.runs)
    unfinished = [summary for summary in summaries if summary["status"] != "finished"]
    console().print(terminal_table(rows, unfinished))
    if arguments.csv:
        _write(arguments.csv, csv_table(rows))
    if arguments.markdown:
        _write(arguments.markdown, markdown_table(rows, unfinished))


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m src.report", description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path, help="run folders, or folders of them")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the rows as CSV")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write Markdown")
    parser.add_argument("--runs", action="store_true", help="one row per run instead of means")
    return parser


if __name__ == "__main__":
    sys.exit(main())
