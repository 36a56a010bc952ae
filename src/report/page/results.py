"""Topics of what was reached: gains, accuracies over N, learning curves, cost."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from math import nan
from pathlib import Path
from statistics import fmean
from textwrap import fill
from typing import NamedTuple

from src.common.errors import in_one_line
from src.report.aggregate import Row
from src.report.apart import VANILLA
from src.report.block import ACCURACIES, COST, GAINS, Block, names, notes, number
from src.report.gain import LEAST_FOR_INTERVAL, t_interval
from src.report.page.figure import (
    Effect,
    Line,
    forest,
    gain_lines,
    learning_curves,
    over_prototypes,
)
from src.report.page.leftover import read_curve
from src.report.page.model import Plot, Topic
from src.report.shift import by_shift

Singles = Mapping[str, Row]  # rows of single runs, by folder
_Setting = tuple[str, str, str]  # of a baseline and a KDCI
_MOST_LINES = 8  # in one figure; more cannot be told apart
_LABEL = 26  # characters in a line


def results(block: Block, singles: Singles) -> list[Topic]:
    """Everything that the accuracies of a block say, tables first; topics may be empty."""
    by_name = {part.name: part for part in block.parts}
    runs = _Runs(singles, _brief_settings(block.rows))
    tables = [by_name[name] for name in (GAINS, ACCURACIES) if name in by_name]
    return [
        Topic("Gains and accuracies", tables, notes=notes(block.rows)),
        Topic("Paired gains", plots=_forest(block, runs)),
        Topic("Accuracy over N", plots=_each_baseline(block, _over_prototypes, runs)),
        Topic("Gain over N", plots=_each_baseline(block, _gain_over_prototypes, runs)),
        Topic("Gain over unevenness", plots=_over_unevenness(block, runs)),
        Topic("Learning curves", plots=_each_baseline(block, _curves, runs)),
    ]


def cost(block: Block) -> Topic:
    """What each stage cost."""
    return Topic("Cost per stage", [part for part in block.parts if part.name == COST])


def _brief_settings(rows: Sequence[Row]) -> dict[_Setting, str]:
    """What figures call each setting: nothing if most rows of its kind share it.

    Options go by their last names, where neither another in the block nor the run has the same.
    """
    kinds = Counter((row.baseline, row.kdci) for row in rows)
    counts = Counter((row.baseline, row.kdci, setting) for row in rows for setting in row.settings)
    keys = {setting.partition("=")[0] for *_, setting in counts} | {"seed"}
    last = Counter(key.rpartition(".")[2] for key in keys)
    brief = {}
    for (baseline, kdci, setting), count in counts.items():
        key, _, value = setting.partition("=")
        name = key.rpartition(".")[2]
        short = f"{name if last[name] == 1 else key}={value}"
        is_usual = 2 * count > kinds[baseline, kdci]
        brief[baseline, kdci, setting] = "" if is_usual else short
    return brief


class _Runs(NamedTuple):
    """What figures need to know beside the rows: single runs by folder, and brief settings."""

    singles: Singles
    brief: Mapping[_Setting, str]

    def settings(self, row: Row, settings: Sequence[str] | None = None) -> str:
        """The settings of a row, or some of them, in brief."""
        chosen = row.settings if settings is None else settings
        found = (self.brief[row.baseline, row.kdci, each] for each in chosen)
        return " ".join(each for each in found if each)


def _label(row: Row, runs: _Runs, with_baseline: bool = False) -> str:
    """What a figure calls a row, broken into short lines."""
    baseline, kdci, count, _ = names(row)
    kind = "vanilla" if row.kdci == VANILLA else f"{kdci}, N={count}"
    parts = [baseline] * with_baseline + [kind, runs.settings(row)]
    return _lines(" ".join(part for part in parts if part))


def _lines(label: str) -> str:
    return fill(label, _LABEL, max_lines=3, placeholder=" ...")


def _forest(block: Block, runs: _Runs) -> list[Plot]:
    effects = []
    for row in block.rows:
        if row.gain.mean is not None:
            found = [runs.singles[folder].gain.mean for folder in row.folders]
            gains = [gain for gain in found if gain is not None]
            label = _label(row, runs, with_baseline=True)
            effects.append(Effect(label, gains, row.gain.mean, row.gain.t_low, row.gain.t_high))
    if not effects:
        return []
    caption = (
        "Gain of each pair of runs of one seed (dots), their mean (diamond) and its 95% interval "
        "by Student's t (bar), where two pairs or more differ. Settings that most rows share "
        "are named in the table only."
    )
    said = "; ".join(f"{in_one_line(each.label)}: {each.mean:+.2f}" for each in effects)
    alt = f"Forest plot of the gain over vanilla in percentage points. Means: {said}."
    return [Plot("gains", caption, alt, forest(effects))]


def _each_baseline(
    block: Block, plot: Callable[[str, list[Row], _Runs], Plot | None], runs: _Runs
) -> list[Plot]:
    plots = [
        plot(baseline, list(rows), runs)
        for baseline, rows in groupby(block.rows, key=lambda row: row.baseline)
    ]
    return [each for each in plots if each is not None]


def _over_prototypes(baseline: str, rows: list[Row], runs: _Runs) -> Plot | None:
    """One line for all N of the same compensation and settings."""
    series = _by_size(rows)
    if not series:
        return None
    vanilla = [row for row in rows if row.kdci == VANILLA]
    bands = [_series(_label(row, runs), [row], runs.singles) for row in vanilla]
    bands = bands[: _MOST_LINES // 2]  # the lines are what is looked for
    lines = [_series(_form(found[0], runs), found, runs.singles) for found in series.values()]
    shown = [*bands, *lines][:_MOST_LINES]
    caption = (
        f"{baseline}: accuracy of the last epoch over the number of prototypes, mean and 95% "
        "interval by Student's t over seeds; vanilla as a horizontal line and band."
        f"{_undrawn(len(vanilla) + len(lines), len(shown))}"
    )
    said = "; ".join(
        f"{in_one_line(line.label)}{f', N={x:g}' if not line.is_vanilla else ''}: {mean:.2f}"
        for line in shown
        for x, mean in zip(line.x, line.mean, strict=True)
    )
    figure = over_prototypes(shown[: len(bands)], shown[len(bands) :])
    return Plot(f"over_n_{baseline}", caption, f"Accuracy in percent. {said}.", figure)


def _gain_over_prototypes(baseline: str, rows: list[Row], runs: _Runs) -> Plot | None:
    """The same of gains: pairs of one seed hide what seeds do to both."""
    lines = [
        _gains(_form(found[0], runs), paired, [float(row.num_prototypes) for row in paired])
        for found in _by_size(rows).values()
        if len(paired := [row for row in found if row.gain.pairs]) > 1
    ]
    if not lines:
        return None
    caption = (
        f"{baseline}: mean gain over vanilla of the same seed over the number of prototypes, with "
        f"its 95% interval by Student's t.{_undrawn(len(lines))}"
    )
    lines = lines[:_MOST_LINES]
    alt = f"Gain in percentage points over N. {_said(lines, 'N=')}."
    figure = gain_lines(lines, "prototypes, N", doubling=True)
    return Plot(f"gain_over_n_{baseline}", caption, alt, figure)


def _by_size(rows: Iterable[Row]) -> dict[tuple[str, ...], list[Row]]:
    series: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.kdci != VANILLA and row.num_prototypes.isdecimal():
            series.setdefault((row.kdci, *row.settings), []).append(row)
    return {key: found for key, found in series.items() if len(found) > 1}


def _form(row: Row, runs: _Runs) -> str:
    return f"{row.kdci} {runs.settings(row)}".strip()


def _gains(label: str, rows: Sequence[Row], x: Sequence[float]) -> Line:
    return Line(
        _lines(label),
        False,
        x,
        [row.gain.mean or 0.0 for row in rows],
        [nan if row.gain.t_low is None else row.gain.t_low for row in rows],
        [nan if row.gain.t_high is None else row.gain.t_high for row in rows],
    )


def _said(lines: Sequence[Line], name: str) -> str:
    return "; ".join(
        f"{in_one_line(line.label)}, {name}{x:.4g}: {mean:+.2f}"
        for line in lines
        for x, mean in zip(line.x, line.mean, strict=True)
    )


def _series(label: str, rows: Sequence[Row], singles: Singles) -> Line:
    ends = [_ends([singles[folder].last_mean for folder in row.folders]) for row in rows]
    return Line(
        _lines(label),
        rows[0].kdci == VANILLA,
        [float(row.num_prototypes or nan) for row in rows],
        [row.last_mean for row in rows],
        [low for low, _ in ends],
        [high for _, high in ends],
    )


def _over_unevenness(block: Block, runs: _Runs) -> list[Plot]:
    lines = [
        _gains(_named(name, rows[0], runs), rows, [row.unevenness or 0.0 for row in rows])
        for name, rows in by_shift(block.rows).items()
    ]
    if not lines:
        return []
    caption = (
        "Mean gain over vanilla on the same data, with its 95% interval by Student's t, over the "
        "divergence of the predicted classes of the substitution data from equal shares."
        f"{_undrawn(len(lines))}"
    )
    lines = lines[:_MOST_LINES]
    alt = f"Gain in percentage points over unevenness in nats. {_said(lines, '')}."
    figure = gain_lines(lines, "unevenness of the predicted classes, nats")
    return [Plot("over_unevenness", caption, alt, figure)]


def _named(line: tuple[str, ...], row: Row, runs: _Runs) -> str:
    baseline, kdci, count, *settings = line
    return f"{baseline} {kdci}, N={count} {runs.settings(row, settings)}".strip()


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return t_interval(values) if len(values) >= LEAST_FOR_INTERVAL else (nan, nan)


def _curves(baseline: str, rows: list[Row], runs: _Runs) -> Plot | None:
    curves = [(row, [read_curve(Path(folder)) for folder in row.folders]) for row in rows]
    lines = [_curve(_label(row, runs), row, found) for row, found in curves if any(found)]
    if not lines:
        return None
    caption = (
        f"{baseline}: accuracy of the plain student on the test split after each epoch; mean and, "
        f"as a band, the range of the seeds.{_undrawn(len(lines))}"
    )
    lines = lines[:_MOST_LINES]
    ends = [f"{in_one_line(line.label)}: {line.mean[-1]:.2f} at the end" for line in lines]
    alt = f"Learning curves in percent. {'; '.join(ends)}."
    return Plot(f"curves_{baseline}", caption, alt, learning_curves(lines))


def _curve(label: str, row: Row, curves: Sequence[Mapping[float, float]]) -> Line:
    """Over the epochs that all runs have which reach the end: a mean of fewer would jump."""
    end = max(max(curve) for curve in curves if curve)
    known = [curve for curve in curves if end in curve]  # others are damaged
    counts = Counter(epoch for curve in known for epoch in curve)
    x = sorted(epoch for epoch, count in counts.items() if count == len(known))
    values = [[curve[epoch] for curve in known] for epoch in x]
    is_one = len(known) == 1
    return Line(
        label,
        row.kdci == VANILLA,
        x,
        [fmean(each) for each in values],
        [nan if is_one else min(each) for each in values],
        [nan if is_one else max(each) for each in values],
    )


def _undrawn(count: int, drawn: int = _MOST_LINES) -> str:
    more = count - drawn
    return f" {number(more, 0)} more settings are not drawn." if more > 0 else ""
