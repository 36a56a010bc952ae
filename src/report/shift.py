"""Gain against how uneven the substitution data is: does more shift leave more to gain?"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import groupby

from src.report.aggregate import Row
from src.report.block import EMPTY, GAIN_COLUMNS, GAINS, Block, Part, blocks, gain_cells, number

_LEAST = 2  # pools that make a line
_POOL, _CODE = ("pool=", "pool."), "code="  # how labels begin
NOTE = (
    "Unevenness: divergence of the classes that the teacher predicts for the substitution data "
    "from equal shares, in nats; 0 is even. Gain: over vanilla on the same data, as elsewhere."
)
Line = tuple[str, ...]  # method, form, N, and settings that are not of the pool


def controlled_shift(rows: Sequence[Row]) -> Iterator[Block]:
    """The gains of each method and form of KDCI that met several shifts, the most even first.

    Args:
        rows: As :func:`src.report.aggregate.aggregate` gives them.
    """
    for block in blocks(rows):
        lines = [
            (*name[:3], number(row.unevenness, 3), " ".join(row.settings) or EMPTY, *_cells(row))
            for name, found in by_shift(block.rows).items()
            for row in found
        ]
        if lines:
            header = ("baseline", "KDCI", "N", "unevenness", "settings", "last", *GAIN_COLUMNS)
            yield Block(block.title, block.rows, [Part(GAINS, header, lines, 3)])


def by_shift(rows: Sequence[Row]) -> dict[Line, list[Row]]:
    """Rows with a gain that differ in their pool only, if there are several; by unevenness.

    The code of a pool's class is of the pool, unless pools of that class ran under two codes.

    Args:
        rows: All rows of a block.
    """
    recoded = _recoded(rows)

    def name(row: Row) -> Line:
        of_pool = _POOL if row.baseline in recoded else (*_POOL, _CODE)
        others = (each for each in row.settings if not each.startswith(of_pool))
        return row.baseline, row.kdci, row.num_prototypes or EMPTY, *others

    known = [row for row in rows if row.gain.pairs and row.unevenness is not None]
    groups = {key: list(found) for key, found in groupby(sorted(known, key=name), key=name)}
    return {
        key: sorted(found, key=_unevenness)
        for key, found in groups.items()
        if len(set(map(_pool, found))) >= _LEAST
    }


def _recoded(rows: Sequence[Row]) -> set[str]:
    """Methods of which pools of the same classes ran under two codes."""
    codes: defaultdict[tuple[str, tuple[str, ...]], set[str]] = defaultdict(set)
    for row in rows:
        classes = tuple(each for each in _pool(row) if "_target_=" in each)
        codes[row.baseline, classes].update(_starting(row, _CODE))
    return {baseline for (baseline, _), found in codes.items() if len(found) > 1}


def _pool(row: Row) -> tuple[str, ...]:
    return _starting(row, _POOL)


def _starting(row: Row, words: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(each for each in row.settings if each.startswith(words))


def _unevenness(row: Row) -> float:
    return row.unevenness or 0.0


def _cells(row: Row) -> tuple[str, ...]:
    return (number(row.last_mean), *gain_cells(row.gain))
