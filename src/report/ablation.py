"""The ablation: what the full method loses without one of its parts, paired by seed."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import Any

from src.report.apart import VANILLA, Run, kdci_hash, kdci_settings, table_of, tell_apart
from src.report.block import EMPTY, GAIN_COLUMNS, Block, Part, gain_cells, number, title_of
from src.report.gain import Gain, gain_of
from src.report.summary import Summary

FULL = "full"
_ABLATIONS = {
    "random lambda": ("kdci.adjustment.attention", "random"),
    "random z": ("kdci.dictionary.prototypes", "random"),
    "no P(z)": ("kdci.adjustment.prior", "uniform"),
}
_HEADER = ("baseline", "KDCI", "N", "settings", "form", "last")
NOTE = (
    "Difference: last minus that of the full method at the same seed, with all other options "
    "equal; columns as in the table of gains. Last: mean over the seeds that are paired."
)


@dataclass(frozen=True)
class Difference:
    """One form of the method against the full one.

    Attributes:
        full: A run of the full form.
        form: What is missing.
        last: Mean accuracy of this form over the paired seeds.
        full_last: The same of the full form.
        gain: Of this form over the full one.
    """

    full: Run
    form: str
    last: float
    full_last: float
    gain: Gain


def differences(summaries: Iterable[Summary]) -> list[Difference]:
    """Every full form of which an ablated one has run, against vanilla and its ablated forms.

    Args:
        summaries: Runs, in any order; unfinished ones are left out.
    """
    runs = tell_apart(summary for summary in summaries if summary["status"] == "finished")
    last = {(r.shared, _hash(r), r.summary["seed"]): r.summary["acc1"]["last"] for r in runs}
    full: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        if run.kind != VANILLA and not _is_ablated(run):
            full[run.shared, run.kdci].append(run)
    found = []
    for group in full.values():
        forms = [each for each in _forms(group, last) if each.gain.pairs]
        if any(each.form in _ABLATIONS for each in forms):
            found += forms
    return found


def ablation(summaries: Iterable[Summary]) -> Iterator[Block]:
    """The differences as tables, one for each data set, budget, mode, teacher and student."""
    found = sorted(differences(summaries), key=lambda each: _title(each.full))
    for title, group in groupby(found, key=lambda each: _title(each.full)):
        lines: list[tuple[str, ...]] = []
        for each in group:
            names = _names(each.full)
            full = (*names, FULL, number(each.full_last), *[EMPTY] * len(GAIN_COLUMNS))
            if full not in lines:
                lines.append(full)
            lines.append((*names, each.form, number(each.last), *gain_cells(each.gain)))
        columns = ("difference" if name == "gain" else name for name in GAIN_COLUMNS)
        yield Block(
            title, [], [Part("Differences from the full method", (*_HEADER, *columns), lines, 5)]
        )


def _is_ablated(run: Run) -> bool:
    settings = kdci_settings(run.summary)
    return any(settings.get(key) == value for key, value in _ABLATIONS.values())


def _hash(run: Run, changed: Mapping[str, Any] | None = None) -> str:
    """Of the compensation whatever it is called, since each ablation has its own name."""
    return kdci_hash(run.summary, {"kdci.name": "", **(changed or {})})


def _forms(full: Sequence[Run], last: dict[tuple[str, str, int], float]) -> Iterator[Difference]:
    first = full[0]
    hashes = {form: _hash(first, {key: value}) for form, (key, value) in _ABLATIONS.items()}
    for form, kdci in {"vanilla": VANILLA, **hashes}.items():
        pairs = [
            (last[other], run.summary["acc1"]["last"])
            for run in full
            if (other := (run.shared, kdci, run.summary["seed"])) in last
        ]
        if pairs:
            mean, full_mean = (fmean(column) for column in zip(*pairs, strict=True))
            gain = gain_of([this - its for this, its in pairs])
            yield Difference(first, form, mean, full_mean, gain)


def _title(run: Run) -> str:
    return title_of(table_of(run.summary), run.summary["teacher"]["acc1"])


def _names(run: Run) -> tuple[str, ...]:
    ablated = tuple(f"{key.removeprefix('kdci.')}=" for key, _ in _ABLATIONS.values())
    settings = [each for each in (*run.others, *run.options) if not each.startswith(ablated)]
    return (run.summary["baseline"], run.kind, run.num_prototypes, " ".join(settings) or EMPTY)
