"""What the tables show, whatever they are written in: cells as text, for each block of rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from src.report.aggregate import Row
from src.report.cost import Cost
from src.report.gain import LEAST_FOR_INTERVAL, LEAST_FOR_TEST, Gain

EMPTY = "-"
TOO_SMALL = "n too small"
_EQUAL = "all equal"  # gains, of which no interval can be told
ACCURACIES, GAINS, COST = "Accuracies", "Gains", "Cost"  # names of the tables

NAMES = ("baseline", "KDCI", "N", "settings")
_ACCURACY = ("seeds", "last", "best", "comp.")
GAIN_COLUMNS = ("pairs", "gain", "95% interval", "p", "n for\n1 point")
_COST = tuple(
    f"{stage}\n{what}" for stage in ("(a)", "dict.", "(b)") for what in ("s", "MiB", "made")
)
_NOTE = (
    "Accuracies: percent on the test split, mean ± sample standard deviation over seeds; "
    "comp.: with the compensation left on at test time."
)
_GAIN_NOTE = (
    "Gain: last minus that of the vanilla run of the same seed, mean ± sample standard deviation "
    "over pairs, Student's t interval of the mean, which equal gains cannot tell, and two-sided p "
    "of the sign-flip test; not corrected for the number of rows. n for 1 point: to see 1 point "
    "(power 0.8, 5%) you need about n pairs, if they deviate as these do; from few pairs that is "
    "a rough guess."
)
_COST_NOTE = (
    "Cost of stage (a), dictionary and stage (b): mean seconds and peak memory over the runs that "
    "made them, of all runs; the others reused them. None where those ran on several devices."
)


@dataclass(frozen=True)
class Part:
    """One table: what was reached, what was gained, or what it cost.

    Attributes:
        name: What it shows, in a word.
        header: Names of the columns; a line break stands where a narrow one may be broken.
        lines: Cells of every row; the first is the baseline.
        text_columns: Number of leading columns that hold words.
    """

    name: str
    header: tuple[str, ...]
    lines: Sequence[tuple[str, ...]]
    text_columns: int


@dataclass(frozen=True)
class Block:
    """What stands below one title: rows of one data set, budget, mode, teacher and student."""

    title: str
    rows: Sequence[Row]
    parts: list[Part]


def blocks(rows: Sequence[Row]) -> Iterator[Block]:
    """The rows, which are sorted by block, in tables of accuracies, gains and cost.

    Columns without any value are left out, and so is the table of gains where there is no pair.
    """
    for title, group in groupby(rows, key=_title):
        block = list(group)
        paired = [row for row in block if row.gain.pairs]
        gains = (
            [_part(GAINS, GAIN_COLUMNS, paired, lambda row: gain_cells(row.gain))]
            if paired
            else []
        )
        accuracies = _part(ACCURACIES, _ACCURACY, block, _accuracy)
        parts = [accuracies, *gains, _part(COST, _COST, block, _cost)]
        yield Block(title, block, parts)


def notes(rows: Sequence[Row]) -> list[str]:
    """What the columns mean and what the rows were measured on, a paragraph each."""
    devices = sorted({device for row in rows for device in row.devices})
    copies = [copy for row in rows for copy in row.copies]
    measured = f"Measured on: {', '.join(devices)}."
    if copies:
        measured += f" Counted once, being copies: {', '.join(copies)}."
    gain = [_GAIN_NOTE] if any(row.gain.pairs for row in rows) else []
    return [_NOTE, *gain, _COST_NOTE, measured]


def number(value: float | None, digits: int = 2) -> str:
    """Fixed digits; a dash where there is no number."""
    return EMPTY if value is None else f"{value:.{digits}f}"


def title_of(table: tuple[str, ...], acc1: float | None = None) -> str:
    """What stands above a table.

    Args:
        table: See :func:`src.report.apart.table_of`.
        acc1: Of its teacher, where it has one only.
    """
    dataset, budget, mode, teacher, student = table
    named = teacher if acc1 is None else f"{teacher} ({number(acc1)})"
    return f"{dataset}: {named} -> {student}, budget {budget}, {mode}"


def _title(row: Row) -> str:
    table = (row.dataset, row.budget, row.mode, row.teacher, row.student)
    return title_of(table, row.teacher_acc1)


def _part(
    name: str,
    columns: Sequence[str],
    rows: Sequence[Row],
    cells: Callable[[Row], tuple[str, ...]],
) -> Part:
    lines = [(*names(row), *cells(row)) for row in rows]
    return part_of(name, (*NAMES, *columns), lines, len(NAMES))


def part_of(
    name: str, header: Sequence[str], lines: Sequence[tuple[str, ...]], text_columns: int
) -> Part:
    """A table without the columns that have no value in any line."""
    shown = [n for n in range(len(header)) if any(line[n] != EMPTY for line in lines)]
    return Part(
        name,
        tuple(header[n] for n in shown),
        [tuple(line[n] for n in shown) for line in lines],
        sum(n < text_columns for n in shown),
    )


def names(row: Row) -> tuple[str, str, str, str]:
    """Baseline, compensation, N and settings: what tells a row from the others of its block."""
    settings = " ".join(row.settings)
    return (row.baseline, row.kdci, row.num_prototypes or EMPTY, settings or EMPTY)


def _accuracy(row: Row) -> tuple[str, ...]:
    seeds = len(row.seeds)
    last = spread(number(row.last_mean), row.last_std)
    return (str(seeds), last, number(row.best_mean), number(row.compensated_mean))


def gain_cells(gain: Gain) -> tuple[str, ...]:
    """What stands in ``GAIN_COLUMNS``."""
    return (
        str(gain.pairs),
        spread(signed(gain.mean), gain.std),
        _interval(gain),
        TOO_SMALL if gain.pairs < LEAST_FOR_TEST else _p(gain.p),
        TOO_SMALL if gain.pairs < LEAST_FOR_INTERVAL else number(gain.pairs_for_one_point, 0),
    )


def _interval(gain: Gain) -> str:
    if gain.pairs < LEAST_FOR_INTERVAL:
        return TOO_SMALL
    return _EQUAL if gain.t_low is None else f"[{signed(gain.t_low)}, {signed(gain.t_high)}]"


def _cost(row: Row) -> tuple[str, ...]:
    stages = (row.stage_a, row.dictionary, row.stage_b)
    return tuple(cell for cost in stages for cell in _cost_cells(cost, len(row.seeds)))


def _cost_cells(cost: Cost, runs: int) -> tuple[str, str, str]:
    made = f"{cost.made}/{runs}" if cost.made else EMPTY
    return number(cost.seconds, 1), number(cost.peak_memory_mb, 0), made


def spread(mean: str, std: float | None, digits: int = 2) -> str:
    """Mean and standard deviation, or that there is only one value."""
    return f"{mean} (n=1)" if std is None else f"{mean} ± {number(std, digits)}"


def signed(value: float | None) -> str:
    """Two digits and a sign; a dash where there is no number."""
    return EMPTY if value is None else f"{value:+.2f}"


def _p(value: float | None) -> str:
    # The smallest of 20 pairs is 2 / 2^20; four digits would call it zero.
    return EMPTY if value is None else f"{value:.4f}" if value >= 1e-4 else f"{value:.0e}"
