"""Accuracy and gain against the size N of the confounder dictionary."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from src.report.aggregate import Row
from src.report.apart import VANILLA
from src.report.block import ACCURACIES, EMPTY, GAINS, Block, Part, blocks, number, signed, spread

_LEAST = 2  # sizes that make a line
_TIE = 1e-4  # accuracies have four digits, which part equal means by no more
NOTE = (
    "Last epoch, mean ± sample standard deviation over seeds, for each dictionary size N, and the "
    "gain over vanilla with its number of pairs. *: highest mean of the line, chosen on the test "
    "split, so no estimate of what that N is worth."
)


def dictionary_size(rows: Sequence[Row]) -> Iterator[Block]:
    """One line per method and form of KDCI that ran with several N, one column per N.

    Args:
        rows: As :func:`src.report.aggregate.aggregate` gives them.
    """
    for block in blocks(rows):
        vanilla = [row for row in block.rows if row.kdci == VANILLA]
        curves = [curve for curve in _curves(block.rows) if len(curve) >= _LEAST]
        if not curves:
            continue
        sizes = sorted({row.num_prototypes for curve in curves for row in curve}, key=int)
        header = ("baseline", "KDCI", "settings")
        columns = [f"N={size}" for size in sizes]
        accuracies = [
            (*_names(curve), _reference(curve, vanilla), *_cells(curve, sizes, _last))
            for curve in curves
        ]
        gains = [(*_names(curve), *_cells(curve, sizes, _gain)) for curve in curves]
        parts = [
            Part(ACCURACIES, (*header, "vanilla", *columns), accuracies, 3),
            Part(GAINS, (*header, *(f"gain, {name}" for name in columns)), gains, 3),
        ]
        yield Block(block.title, block.rows, parts)


def _curves(rows: Sequence[Row]) -> Iterator[list[Row]]:
    def form(row: Row) -> tuple[str, str, tuple[str, ...]]:
        return row.baseline, row.kdci, row.settings

    sized = [row for row in rows if row.num_prototypes.isdecimal()]
    for _, curve in groupby(sorted(sized, key=form), key=form):
        yield list(curve)


def _names(curve: Sequence[Row]) -> tuple[str, ...]:
    first = curve[0]
    return (first.baseline, first.kdci, " ".join(first.settings) or EMPTY)


def _reference(curve: Sequence[Row], vanilla: Sequence[Row]) -> str:
    """Accuracy of the vanilla row that the gains of ``curve`` are over; none without a pair."""
    first = curve[0]
    alike = [
        row
        for row in vanilla
        if row.baseline == first.baseline and row.settings == first.settings[: len(row.settings)]
    ]
    if not alike or not any(row.gain.pairs for row in curve):
        return EMPTY
    # A key that only some runs have is no label of the others, which seem to fit all.
    return _last(max(alike, key=lambda row: len(row.settings)))


def _cells(
    curve: Sequence[Row], sizes: Sequence[str], cell: Callable[[Row], str]
) -> Iterator[str]:
    found = {row.num_prototypes: row for row in curve}
    best = max(row.last_mean for row in curve)
    for size in sizes:
        row = found.get(size)
        is_best = row is not None and row.last_mean >= best - _TIE
        yield EMPTY if row is None else cell(row) + ("*" if is_best else "")


def _last(row: Row) -> str:
    return spread(number(row.last_mean), row.last_std)


def _gain(row: Row) -> str:
    gain = row.gain
    if gain.mean is None:
        return EMPTY
    deviation = "" if gain.std is None else f" ± {number(gain.std)}"
    return f"{signed(gain.mean)}{deviation} ({gain.pairs})"
