"""From summaries to a page, and to its figures as files."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from src.report.aggregate import aggregate, vanilla_folders
from src.report.anonymous import run_name
from src.report.block import blocks
from src.report.collection import Damaged, unfinished
from src.report.page.draw import inline_svg, save, style
from src.report.page.inside import insides
from src.report.page.model import Plot, Section, Topic
from src.report.page.provenance import provenance
from src.report.page.results import cost, results
from src.report.page.tsne import tsne
from src.report.summary import Summary

_TEMPLATE = "page.html.j2"


def sections_of(
    summaries: Sequence[Summary], with_tsne: bool = False, is_anonymous: bool = False
) -> list[Section]:
    """A section for each group of finished runs that can be compared, its figures not drawn yet.

    Args:
        summaries: Runs, in any order; unfinished ones are passed over.
        with_tsne: Also the plane of the students' features, which takes seconds.
        is_anonymous: Whether folders are called by their names alone.

    Raises:
        UserError: If two runs are the same in everything, seed included, but their results.
    """
    rows = aggregate(summaries)
    if is_anonymous:
        rows = [replace(row, copies=tuple(map(run_name, row.copies))) for row in rows]
    singles = {row.folders[0]: row for row in aggregate(summaries, by_seed=True)}
    vanilla = vanilla_folders(summaries) if with_tsne else {}
    sections = []
    with style():
        for place, block in enumerate(blocks(rows), start=1):
            topics = [*results(block, singles), *insides(block)]
            if with_tsne:
                topics.append(tsne(block, vanilla))
            name = f"{place}_{_file_name(block.title)}"
            sections.append(Section(block.title, name, _filled([*topics, cost(block)])))
    return sections


def html(
    sections: Sequence[Section],
    summaries: Sequence[Summary],
    damaged: Sequence[Damaged] = (),
    is_anonymous: bool = False,
) -> str:
    """The page: one file, no script, and nothing that a browser would have to fetch."""
    finished = [run for run in summaries if run["status"] == "finished"]
    ran = _filled(provenance(finished, unfinished(summaries), damaged, is_anonymous))
    closed = sum(each.is_closed for each in damaged)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(_TEMPLATE).render(
        sections=[*sections, Section("What ran", "ran", ran)],
        runs=len(finished),
        damaged=len(damaged) - closed,
        closed=closed,
        svg=inline_svg,
    )
    # Names of folders may hold bytes that are no text.
    return text.encode("utf-8", "replace").decode("utf-8")


def save_figures(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Write every figure as PNG, PDF and SVG, and return the files.

    They are named by title and figure, not by place: with more runs, a figure keeps its name.

    Raises:
        UserError: If the disk does not take them.
    """
    seen: set[str] = set()
    return [
        path
        for section in sections
        for plot in _plots(section)
        for path in save(plot.figure, folder / _stem(section, plot, seen))
    ]


def _stem(section: Section, plot: Plot, seen: set[str]) -> str:
    """A name that none of ``seen`` has, to which it is added; some disks take A for a."""
    stem = name = f"{_file_name(section.title)}_{_file_name(plot.name)}"
    number = 1
    while name.lower() in seen:
        number += 1
        name = f"{stem}_{number}"
    seen.add(name.lower())
    return name


def _plots(section: Section) -> Iterator[Plot]:
    for topic in section.topics:
        yield from topic.plots


def _filled(topics: Sequence[Topic]) -> list[Topic]:
    return [topic for topic in topics if not topic.is_empty]


def _file_name(title: str) -> str:
    """Letters, digits and underscores of a title, which comes from users."""
    return re.sub(r"\W+", "_", title, flags=re.ASCII).strip("_")[:80]
