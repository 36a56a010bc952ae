"""One report of a W&B project: the tables made here, and charts of the runs that are there.

A report and no saved view of the workspace: text stands between charts whose runs are grouped in
several ways, and W&B lists reports by title and description, so that the next one replaces it and
nobody else's; views it does not.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from textwrap import shorten
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr

from src.common.errors import UserError
from src.report.aggregate import Row, aggregate
from src.report.apart import without_contradictions
from src.report.block import Block
from src.report.collection import Found
from src.report.dashboard import NAMES, DashboardError
from src.report.dictionary_size import NOTE, dictionary_size
from src.report.metrics import STEPS
from src.report.mirror import Target
from src.report.page.canvas import PALETTE
from src.report.summary import Summary
from src.report.table import markdown_blocks, markdown_table

TITLE = "KDCI results"
_MARK = "Written by --wandb-panels; its next call replaces it, with all edits by hand."
_ABOUT = (
    "The tables and the charts over N hold the runs of the last call, the other charts whatever "
    "is in the project."
)
_GROUPS = [
    f"config.{key}" for key in (f"{NAMES}.dataset", "budget", f"{NAMES}.baseline", "kdci.name")
]
_COLUMNS = [
    "summary:acc1/last",
    "summary:acc1/best",
    "config:seed.value",
    "summary:seconds/total",
    "summary:peak_memory_mb",
]
_STAGES = ("teacher", "stage_a", "dictionary", "stage_b", "inside")
_MOST = 100  # groups in a chart; of itself W&B shows ten


def panels(summaries: Sequence[Summary], identity: Callable[[Summary], str | None]) -> list[Any]:
    """Blocks of the report: sweep, tables with gains, accuracy over N, curves and cost.

    Args:
        summaries: Finished runs that are in the project.
        identity: What a run is called there; None where that is not known.
    """
    summaries, damaged = without_contradictions(Found([*summaries], []))
    rows = aggregate(summaries)
    identities = {summary["folder"]: identity(summary) for summary in summaries}
    return [
        wr.P(_ABOUT),
        wr.H2("Sweep"),
        _grid([_bars("Test accuracy, last epoch", ["acc1/last"])]),
        wr.H2("Accuracies, gains with 95% intervals, and cost"),
        wr.MarkdownBlock(markdown_table(rows, [], damaged)),
        *_over_size(rows, identities),
        wr.H2("Learning curves"),
        _grid([_curve("student")]),
        wr.H2("Cost"),
        wr.P("Runs that reused a stage count here; the tables above leave them out."),
        _grid(
            [
                _bars("Seconds", [f"seconds/{stage}" for stage in _STAGES]),
                _bars("Peak memory of the run, MiB", ["peak_memory_mb"]),
            ]
        ),
    ]


def save_panels(blocks: Sequence[Any], to: Target) -> str:
    """Make the report, or replace the one that was made before, and return its address.

    One of the same title that somebody else has written stays.

    Args:
        blocks: What ``panels`` returned.
        to: The project, which exists.

    Raises:
        DashboardError: If W&B does not take it, for instance without an account or network.
    """
    try:
        api = wandb.Api()
        entity = to.entity or api.default_entity
        if entity is None:
            raise UserError("the account has no default team, name one by WANDB_ENTITY")
        report = wr.Report(
            to.project, entity, TITLE, description=_MARK, blocks=list(blocks), width="fluid"
        )
        report.id = _saved_before(api.reports(f"{entity}/{to.project}"))
        return str(report.save().url)
    except Exception as error:  # the library raises plain ones, too
        raise DashboardError(
            f"The runs are in '{to.project}', but Weights & Biases did not take the panels "
            f"({shorten(str(error), 200).rstrip('.')}); the same command tries again"
        ) from error


def _saved_before(reports: Iterable[Any]) -> str:
    """Identity of the report that a call has made, empty if there is none yet."""
    made = (TITLE, _MARK)
    return next((str(r.id) for r in reports if (r.display_name, r.description) == made), "")


def _over_size(rows: Sequence[Row], identities: Mapping[str, str | None]) -> Iterator[Any]:
    """For each table with several N, it and a chart; nothing where there is none."""
    found = list(dictionary_size(rows))
    if found:
        yield wr.H2("Accuracy over dictionary size")
    for block in found:
        yield wr.MarkdownBlock("\n".join(markdown_blocks([block], [NOTE])))
        chart = wr.ScatterPlot(
            title="Test accuracy, last epoch, over N",
            x=wr.Config("kdci.dictionary.N"),
            y=wr.SummaryMetric("acc1/last"),
            log_x=True,
            layout=wr.Layout(w=24, h=10),
        )
        yield wr.PanelGrid(runsets=_by_baseline(block, identities), panels=[chart])


def _by_baseline(block: Block, identities: Mapping[str, str | None]) -> list[Any]:
    """The runs with an N, one set and colour for each baseline."""
    runs: defaultdict[str, list[str]] = defaultdict(list)
    for row in block.rows:
        if row.num_prototypes.isdecimal():
            names = (identities[folder] for folder in row.folders)
            runs[row.baseline] += [name for name in names if name is not None]
    return [
        wr.Runset(
            name=baseline,
            # By identity: the library escapes no values, and a name may hold a quote.
            filters=expr.And(expr.Metric("ID").isin(names)),
            run_settings={name: wr.RunSettings(PALETTE[n % len(PALETTE)]) for name in names},
        )
        for n, (baseline, names) in enumerate(runs.items())
    ]


def _grid(charts: Sequence[Any]) -> Any:
    """Charts beside each other, and below them the table of the runs, which they group too."""
    runs = wr.Runset(name="all runs", groupby=_GROUPS, visible_columns=_COLUMNS, lock_columns=True)
    return wr.PanelGrid(runsets=[runs], panels=list(charts))


def _curve(stage: str) -> Any:
    return wr.LinePlot(
        title=f"Test accuracy of the {stage}, mean and range of each group",
        x=STEPS[stage],
        y=[f"{stage}/acc"],
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=_MOST,
        layout=wr.Layout(w=24, h=10),
    )


def _bars(title: str, metrics: Sequence[str]) -> Any:
    return wr.BarPlot(
        title=title,
        metrics=list(metrics),
        groupby_aggfunc="mean",
        max_runs_to_show=_MOST,
        max_bars_to_show=_MOST,
        layout=wr.Layout(w=12, h=10),
    )
