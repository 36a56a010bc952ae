"""``python -m src.report outputs/``: the table of all runs below the given folders."""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rich.console import Group

from src.common.errors import MissingExtraError, UserError, in_one_line
from src.common.files import atomic_write
from src.report import ablation, dictionary_size, shift, variance
from src.report.aggregate import aggregate
from src.report.anonymous import anonymous
from src.report.apart import without_contradictions
from src.report.arguments import parser
from src.report.block import Block
from src.report.collection import Damaged, Found, read_summaries, unfinished
from src.report.console import console, print_whatever_can_be
from src.report.discard import discard_failed
from src.report.latex import latex_table
from src.report.record import Record, records
from src.report.summary import FILE_NAME, Summary
from src.report.table import (
    csv_table,
    left_out,
    markdown_blocks,
    markdown_table,
    terminal_blocks,
    terminal_table,
)

if TYPE_CHECKING:
    from src.report.mirror import Target

_FILES = ("csv", "markdown", "latex", "html")
_ELEMENTS: dict[str, tuple[Callable[[Sequence[Summary]], Iterator[Block]], str]] = {
    "ablation": (ablation.ablation, ablation.NOTE),
    "fig4_dictionary_size": (
        lambda runs: dictionary_size.dictionary_size(aggregate(runs)),
        dictionary_size.NOTE,
    ),
    "controlled_shift": (lambda runs: shift.controlled_shift(aggregate(runs)), shift.NOTE),
    "variance": (variance.variance, variance.NOTE),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the asked-for files, print the table, and return the exit code (2: bad input)."""
    arguments = parser(_ELEMENTS).parse_args(argv)
    print_whatever_can_be()
    try:
        return _asked_for(arguments)(arguments)
    except UserError as error:
        return _complain(str(error))
    except OSError as error:
        where = f"Cannot use '{error.filename}'"
        if error.filename is None:  # the terminal, or what stands for it
            where = "Cannot print"
            _drop_unprinted()
        return _complain(f"{where} ({error.strerror or error})")


def _asked_for(arguments: argparse.Namespace) -> Callable[[argparse.Namespace], int]:
    """What these options do, of which two print no table.

    Raises:
        UserError: If they do not go together.
    """
    table = ("runs", "experiment", "figures", "tsne", "anonymous", *_FILES)
    is_table = any(getattr(arguments, option) for option in table)
    if arguments.discard_failed and (is_table or arguments.wandb is not None):
        raise UserError("Expected --discard-failed alone, but got other options too")
    if arguments.wandb is None:
        for option in ("wandb_mode", "wandb_panels"):
            if getattr(arguments, option):
                name = option.replace("_", "-")
                raise UserError(f"Expected --{name} with --wandb PROJECT, but got no project")
        return _discard if arguments.discard_failed else _report
    if is_table:
        raise UserError("Expected --wandb without options of tables, but got such options too")
    return _mirror


def _report(arguments: argparse.Namespace) -> int:
    _require_files(arguments)
    page = _page_of(arguments)
    found = without_contradictions(read_summaries(arguments.paths))
    summaries, damaged = found
    if not summaries:
        return _complain_of_nothing(arguments.paths, damaged)
    if arguments.experiment:
        return _report_element(arguments, summaries, damaged)
    rows, open_ = aggregate(summaries, by_seed=arguments.runs), unfinished(summaries)
    # The terminal comes last: what it does not take, such as a pipe that is closed, costs no file.
    if arguments.markdown:
        _write(arguments.markdown, markdown_table(rows, open_, damaged))
    if arguments.csv:
        lines = csv_table(records(summaries), Record) if arguments.runs else csv_table(rows)
        _write(arguments.csv, lines)
        _warn_of_left_out(arguments.csv, damaged)
    if arguments.latex:
        _write(arguments.latex, latex_table(rows))
        _warn_of_left_out(arguments.latex, damaged)
    if page is not None:
        _write_page(page, arguments, found)
    console().print(terminal_table(rows, open_, damaged))
    return 0


def _page_of(arguments: argparse.Namespace) -> ModuleType | None:
    """What makes pages and figures, if any are asked for: its libraries take a second to load."""
    if not (arguments.html or arguments.figures):
        if arguments.tsne:
            raise UserError("Expected --tsne with --html or --figures, but got neither")
        return None
    if arguments.figures and arguments.figures.exists() and not arguments.figures.is_dir():
        raise UserError(f"Expected the name of a folder, but '{arguments.figures}' is a file")
    try:
        from src.report.page import render
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "train") from error
    return render


def _write_page(page: ModuleType, arguments: argparse.Namespace, found: Found) -> None:
    if arguments.anonymous:
        found = anonymous(found)
    sections = page.sections_of(found.summaries, arguments.tsne, arguments.anonymous)
    if arguments.html:
        _write(arguments.html, page.html(sections, *found, arguments.anonymous))
    if arguments.figures:
        page.save_figures(sections, arguments.figures)


def _report_element(
    arguments: argparse.Namespace, summaries: Sequence[Summary], damaged: Sequence[Damaged]
) -> int:
    """Print what one experiment shows instead of the tables of everything."""
    element, note = _ELEMENTS[arguments.experiment]
    shown = list(element(summaries))
    if not shown:
        runs = f"experiments={arguments.experiment}"
        raise UserError(f"None of these runs belong together as those of {runs} do; run it first")
    if arguments.markdown:
        _write(arguments.markdown, "\n".join(markdown_blocks(shown, [note])))
    console().print(Group(*terminal_blocks(shown, [note])))
    if damaged:
        sys.stderr.write(f"Warning: {left_out(damaged)}\n")
    return 0


def _require_files(arguments: argparse.Namespace) -> None:
    """Refuse what no file can be written to, before anything is read."""
    others = ("csv", "latex", "html", "figures", "runs")
    if arguments.experiment and any(getattr(arguments, option) for option in others):
        raise UserError("Expected --experiment alone or with --markdown, but got other options")
    if arguments.anonymous and not arguments.html:
        raise UserError("Expected --anonymous with --html, but got no page to write")
    named: dict[Path, str] = {}
    for option in _FILES:
        path = getattr(arguments, option)
        if path is None:
            continue
        if path.exists() and not path.is_file():
            kind = "folder" if path.is_dir() else "device or pipe"
            raise UserError(f"Expected the name of a file, but '{path}' is a {kind}")
        other = named.setdefault(path.resolve(), option)
        if other != option:
            raise UserError(f"Expected --{other} and --{option} to differ, but both are '{path}'")


def _warn_of_left_out(path: Path, damaged: Sequence[Damaged]) -> None:
    if damaged:
        sys.stderr.write(f"Warning: '{path}' is not complete: {left_out(damaged)}\n")


def _complain_of_nothing(paths: Sequence[Path], damaged: Sequence[Damaged]) -> int:
    if not damaged:
        looked = ", ".join(f"'{path}'" for path in paths)
        return _complain(f"Expected at least one {FILE_NAME} below {looked}, but found none")
    if len(damaged) > 1:
        for each in damaged:
            sys.stderr.write(f"Left out: {each.reason}\n")
        return _complain(f"No summary can be used; {left_out(damaged)}")
    if damaged[0].path.name != FILE_NAME and not damaged[0].is_closed:
        return _complain(f"{damaged[0].reason}; give a run folder or a {FILE_NAME}")
    return _complain(f"{damaged[0].reason}; {left_out(damaged)}")


def _discard(arguments: argparse.Namespace) -> int:
    done = discard_failed(arguments.paths)
    for folder in done.folders:
        sys.stdout.write(f"Discarded '{folder}'\n")
    if not (done.folders or done.refused):
        sys.stdout.write("No failed run, nothing discarded\n")
    sys.stdout.flush()
    for line in done.refused:
        _complain(f"Not discarded: {line}")
    return 2 if done.refused else 0


def _mirror(arguments: argparse.Namespace) -> int:
    from src.report.mirror import mirror, require_panels, target  # a second that tables are spared

    def tell(folder: Path) -> None:
        sys.stdout.write(f"Mirrored '{folder}'\n")
        sys.stdout.flush()

    to = target(arguments.wandb, arguments.wandb_mode)
    if arguments.wandb_panels:
        require_panels(to)
    done = mirror(arguments.paths, to, tell)
    for line in done.refused:
        _complain(f"Not mirrored: {line}")
    sys.stdout.write(
        f"{to.project}, {to.mode}: {len(done.now)} mirrored, {len(done.before)} before, "
        f"{len(done.live)} logged while they ran, {len(done.unfinished)} not finished\n"
    )
    sys.stdout.flush()
    if arguments.wandb_panels:
        _save_panels(done.there, to)
    return 2 if done.refused else 0


def _save_panels(shown: Sequence[Summary], to: "Target") -> None:
    from src.report.panels import panels, save_panels

    address = save_panels(panels(shown, to.shown), to) if shown else "none, no run to show"
    sys.stdout.write(f"Panels: {address}\n")
    sys.stdout.flush()


def _write(path: Path, text: str) -> None:
    try:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except UserError as error:  # its cure is for runs
        reason = getattr(error.__cause__, "strerror", None) or error.__cause__
        raise UserError(f"Cannot write '{path}' ({reason}); free space or name another") from error


def _complain(message: str) -> int:
    """One line on stderr, as ``src.complaint`` writes it, which would bring Hydra."""
    sys.stderr.write(f"Error: {in_one_line(message)}\n")
    return 2


def _drop_unprinted() -> None:
    """What stdout did not take would be tried, and fail, once more when the program ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
