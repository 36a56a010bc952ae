"""Runs the cases of all parts and makes one table of what they have shown."""

import shutil
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.chaos.lab import Lab
from tests.chaos.verdict import Kind, NotPossible, Verdict

Report = Callable[[str], None]
_COLUMNS = ("part", "tried", *(kind.value for kind in Kind), "seconds")


@dataclass(frozen=True)
class Case:
    """One disturbance.

    Attributes:
        title: What is done.
        run: Does it in a folder of its own, and judges.
    """

    title: str
    run: Callable[[Lab, Path, Random], Verdict]


@dataclass(frozen=True)
class Shown:
    """What a case of a part has shown."""

    part: str
    number: int
    title: str
    verdict: Verdict


@dataclass
class Row:
    """A part of the table."""

    part: str
    shown: list[Shown] = field(default_factory=list)
    seconds: float = 0.0
    skipped: str | None = None

    def cells(self) -> list[str]:
        counts = [sum(s.verdict.kind is kind for s in self.shown) for kind in Kind]
        name = self.part if self.skipped is None else f"{self.part} (SKIPPED: {self.skipped})"
        return [name, str(len(self.shown)), *map(str, counts), f"{self.seconds:.0f}"]

    @property
    def failures(self) -> list[Shown]:
        return [shown for shown in self.shown if shown.verdict.kind.is_failure]


def share(cases: Sequence[Case], titles: Sequence[str]) -> list[int]:
    """Number of the first case of each title.

    Raises:
        ValueError: If there is none of a title.
    """
    all_titles = [case.title for case in cases]
    return [all_titles.index(title) for title in titles]


def run_part(
    lab: Lab,
    part: str,
    cases: Sequence[Case],
    numbers: Sequence[int],
    *,
    seed: int,
    jobs: int,
    report: Report,
) -> Row:
    """Run some cases of a part, a few at a time."""
    started, row, guard = time.monotonic(), Row(part), threading.Lock()

    def one(number: int) -> None:
        case, folder = cases[number], lab.folder / "cases" / f"{part}{number}"
        try:
            verdict = case.run(lab, folder, Random(f"{seed}/{part}/{number}"))
        except NotPossible:
            return
        except Exception:  # noqa: BLE001 - the other cases shall be tried, too
            verdict = Verdict(Kind.OTHER, "the harness failed", traceback.format_exc())
        shutil.rmtree(folder, ignore_errors=True)
        with guard:
            row.shown.append(Shown(part, number, case.title, verdict))
            if verdict.kind.is_failure:
                report(_failure(row.shown[-1], seed))

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, numbers))
    row.shown.sort(key=lambda shown: shown.number)
    row.seconds = time.monotonic() - started
    return row


def _failure(shown: Shown, seed: int) -> str:
    verdict = shown.verdict
    evidence = "".join(f"\n    {line}" for line in verdict.evidence.splitlines())
    again = f"python -m tests.chaos --only {shown.part} --case {shown.number} --seed {seed}"
    return (
        f"{verdict.kind.value.upper()}: {shown.part} {shown.number}, {shown.title}: "
        f"{verdict.why}\n  again: {again}{evidence}"
    )


def table(rows: Sequence[Row]) -> str:
    """The table, as Markdown."""
    body = [row.cells() for row in rows]
    total = [sum(int(cells[i]) for cells in body) for i in range(1, len(_COLUMNS))]
    body.append(["total", *map(str, total)])
    widths = [
        max(len(cells[i]) for cells in [list(_COLUMNS), *body]) for i in range(len(_COLUMNS))
    ]
    ruler = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [list(_COLUMNS), ruler, *body]
    return "\n".join("| " + " | ".join(_aligned(cells, widths)) + " |" for cells in lines)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *rest = zip(cells, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
