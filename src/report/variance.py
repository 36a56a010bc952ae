"""How far teacher, stage (a) and stage (b) spread a result: nested random effects."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from statistics import fmean

from src.report.apart import VANILLA, Run, shared_hash, table_of, tell_apart
from src.report.block import EMPTY, Block, Part, number, signed, title_of
from src.report.gain import pairs_needed
from src.report.summary import Summary

_DRAWN = ("teacher.seed", "distill.repeat")  # besides the seed, which is that of stage (a)
_LABELS = ("teacher=", *(f"{name}=" for name in _DRAWN))
_NEGATIVE = "*"
_TINY = 1e-6  # points squared, far below one test image
_HEADER = (
    *("baseline", "KDCI", "N", "settings", "of", "runs", "teachers", "stages\n(a)", "mean"),
    *("teacher", "stage\n(a)", "stage\n(b)", "n for\n1 point"),
)
NOTE = (
    "Teacher, stage (a), stage (b): standard deviation that each adds, method of moments of the "
    "nested analysis of variance (stages (b) within stages (a) within teachers); *: the estimated "
    "variance is negative and shown as 0. From few teachers theirs is a rough guess. n for 1 "
    "point: about how many seeds show 1 point (power 0.8, 5%) with one teacher, each seed with a "
    "stage (a) and a stage (b) of its own; of last, between two methods that share neither, n "
    "seeds each; of gain, KDCI against vanilla at the same seed and repeat."
)

Values = Mapping[str, Mapping[int, Sequence[float]]]
"""Results of the repeats, by teacher and by seed of stage (a)."""


@dataclass(frozen=True)
class Components:
    """Variances, in points squared, as estimated: one may be negative.

    Attributes:
        teacher: Between teachers; ``None`` of one teacher.
        stage_a: Between stages (a) of one teacher.
        stage_b: Between stages (b) on one stage (a).
    """

    teacher: float | None
    stage_a: float
    stage_b: float

    @property
    def of_a_seed(self) -> float:
        """Of a new stage (a) and a new stage (b) with a given teacher, 0 or more."""
        return max(self.stage_a, 0.0) + max(self.stage_b, 0.0)


def components(values: Values) -> Components | None:
    """Method of moments of the nested analysis of variance; groups may differ in size.

    Mean squares are set equal to what they are expected to be (Searle, Casella and McCulloch,
    *Variance Components*, 1992). ``None`` if no teacher has two stages (a), or no stage (a) has
    two stages (b).
    """
    cells = [[list(cell) for cell in teacher.values()] for teacher in values.values()]
    sizes = [[len(cell) for cell in teacher] for teacher in cells]
    teachers, stages, runs = len(cells), sum(map(len, sizes)), sum(map(sum, sizes))
    if stages == teachers or runs == stages:
        return None
    means = [fmean(chain(*teacher)) for teacher in cells]
    within = sum(
        (value - fmean(cell)) ** 2 for teacher in cells for cell in teacher for value in cell
    )
    between = sum(
        len(cell) * (fmean(cell) - mean) ** 2
        for teacher, mean in zip(cells, means, strict=True)
        for cell in teacher
    )
    # Runs per stage (a), weighted within teachers; of equal sizes simply their size.
    weighted = sum(sum(n * n for n in teacher) / sum(teacher) for teacher in sizes)
    stage_b = within / (runs - stages)
    stage_a = (between / (stages - teachers) - stage_b) * (stages - teachers) / (runs - weighted)
    if teachers == 1:
        return Components(None, stage_a, stage_b)
    grand = fmean(chain(*chain(*cells)))
    across = sum(sum(size) * (mean - grand) ** 2 for size, mean in zip(sizes, means, strict=True))
    per_stage = weighted - sum(n * n for n in chain(*sizes)) / runs
    per_teacher = runs - sum(sum(size) ** 2 for size in sizes) / runs
    rest = across - (teachers - 1) * stage_b - per_stage * stage_a
    return Components(rest / per_teacher, stage_a, stage_b)


def variance(summaries: Iterable[Summary]) -> Iterator[Block]:
    """Components of accuracy and of gain wherever runs repeat stage (a) and stage (b).

    Args:
        summaries: Runs, in any order; unfinished ones are left out.
    """
    runs = tell_apart(summary for summary in summaries if summary["status"] == "finished")
    for title, table in groupby(sorted(runs, key=_title), key=_title):
        groups: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in sorted(table, key=_order):
            groups[shared_hash(run.summary, _DRAWN), run.kdci].append(run)
        lines: list[tuple[str, ...]] = []
        for (shared, kdci), group in groups.items():
            last = _results(group)
            lines += _line(group[0], "last", last)
            if kdci != VANILLA:
                vanilla = _results(groups.get((shared, VANILLA), []))
                gains = {draw: last[draw] - vanilla[draw] for draw in last if draw in vanilla}
                lines += _line(group[0], "gain", gains)
        if lines:
            yield Block(title, [], [Part("Components", _HEADER, lines, 5)])


_Results = dict[tuple[str, int, int], float]


def _results(group: Sequence[Run]) -> _Results:
    """Last accuracies by teacher, seed and repeat."""
    found = {}
    for run in group:
        repeat = run.summary["identity"]["settings"].get("distill.repeat", 0)
        draw = (run.summary["teacher"]["sha256"], run.summary["seed"], repeat)
        found[draw] = run.summary["acc1"]["last"]
    return found


def _line(run: Run, of: str, results: _Results) -> Iterator[tuple[str, ...]]:
    """Nothing where nothing was repeated."""
    values: defaultdict[str, defaultdict[int, list[float]]]
    values = defaultdict(lambda: defaultdict(list))
    for (teacher, seed, _), result in results.items():
        values[teacher][seed].append(result)
    found = components(values)
    if found is None:
        return
    mean = fmean(results.values())
    # Two methods that share nothing differ by the spread of both.
    spread = found.of_a_seed if of == "gain" else 2 * found.of_a_seed
    settings = [each for each in (*run.others, *run.options) if not each.startswith(_LABELS)]
    yield (
        *(run.summary["baseline"], run.kind, run.num_prototypes or EMPTY),
        *(" ".join(settings) or EMPTY, of, str(len(results)), str(len(values))),
        str(sum(map(len, values.values()))),
        signed(mean) if of == "gain" else number(mean),
        *map(_deviation, (found.teacher, found.stage_a, found.stage_b)),
        number(pairs_needed(1.0, spread**0.5) if spread > _TINY else None, 0),
    )


def _deviation(variance: float | None) -> str:
    if variance is None:
        return EMPTY
    return number(max(variance, 0.0) ** 0.5) + (_NEGATIVE if variance < 0 else "")


def _title(run: Run) -> str:
    return title_of(table_of(run.summary))


def _order(run: Run) -> tuple[str, bool, str, str, int]:
    names = (run.summary["baseline"], run.kind != VANILLA, run.kind, run.num_prototypes)
    return (*names, run.summary["seed"])
