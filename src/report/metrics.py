"""What a run logged while it ran, from ``metrics/<stage>/metrics.csv``."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from src.common.sealed import DamagedError

# What each stage counts in, by the prefix of its metrics.
STEPS = {"teacher": "teacher/epoch", "stage_a": "stage_a/round", "student": "student/epoch"}
_COUNTERS = ("epoch", "step")  # Lightning's


def metric_files(folder: Path, stage: str) -> list[Path]:
    """The files of a stage in the folder of a run: one for each attempt, in order.

    Args:
        folder: The run's.
        stage: ``teacher``, ``stage_a`` or ``stage_b``.
    """
    files = (folder / "metrics").glob(f"{stage}*/metrics.csv")
    return sorted(files, key=lambda path: _attempt(path.parent.name))


def read_points(path: Path) -> Iterator[dict[str, float]]:
    """Each epoch or round of one attempt, in order: ``epoch``, ``step`` and metrics by name.

    Lines of one step that come before its epoch belong to it. A line that a killed process has
    not ended does not count, nor does one whose epoch never came: the next attempt has both.

    Raises:
        DamagedError: If the file cannot be read, or is no table of numbers; names the line.
    """
    waiting: dict[str, float] = {}
    for line in _lines(path):
        together = waiting.get("step") == line["step"]
        waiting = waiting | line if together else line
        if not waiting.keys().isdisjoint(STEPS.values()):
            yield waiting
            waiting = {}


def _attempt(name: str) -> int:
    number = re.search(r"\.(\d+)$", name)
    return int(number[1]) if number else 0


def _lines(path: Path) -> Iterator[dict[str, float]]:
    table = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for cells in table:
            yield _numbers(cells)
    except (ValueError, csv.Error) as error:
        where = f"'{path}', line {table.line_num}"
        raise DamagedError(f"{where}, is not what a run logged ({error})") from error


def _text(path: Path) -> str:
    """All that ends with a line break."""
    try:
        if not path.is_file():  # a pipe would never end
            raise DamagedError(f"'{path}' is no regular file")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise DamagedError(f"'{path}' cannot be read ({error})") from error
    return text[: text.rfind("\n") + 1]


def _numbers(cells: dict[str, str]) -> dict[str, float]:
    if None in cells or None in cells.values():
        raise ValueError("other than one cell for each column")
    for column in _COUNTERS:
        if column not in cells:
            raise ValueError(f"no column '{column}'")
    numbers = {key: float(cell) for key, cell in cells.items() if cell and key not in _COUNTERS}
    return numbers | {key: int(cells[key]) for key in _COUNTERS}
