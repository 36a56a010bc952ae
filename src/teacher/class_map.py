"""A teacher of more classes than the data has: which of its outputs are kept."""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from src.common.errors import UserError
from src.network.classifier import Classifier
from src.teacher.unwrap import listed

_MOST_NAMES = 4


def read_columns(path: Path, class_names: Sequence[str], outputs: int) -> list[int]:
    """Columns of the teacher's logits, in the order of the labels.

    Args:
        path: Text with one line ``class,column`` for each class, columns counted from 0.
        class_names: Names of the classes, in label order.
        outputs: How many columns the teacher has.

    Raises:
        UserError: If the file cannot be read, a line is something else, a class or column stands
            in it twice, the classes are not those of the data, or a column is none of the
            teacher's.
    """
    columns: dict[str, int] = {}
    for where, name, column in _lines(path):
        if name in columns:
            raise UserError(f"Expected each class once, but '{name}' stands again in {where}")
        if column in columns.values():
            first = next(known for known, taken in columns.items() if taken == column)
            raise UserError(
                f"Expected a column of its own for each class, but '{name}' has that of "
                f"'{first}', {column}, in {where}"
            )
        if column >= outputs:
            raise UserError(
                f"Expected columns from 0 to {outputs - 1}, since the teacher has {outputs} "
                f"outputs, but '{name}' has {column} in {where}"
            )
        columns[name] = column
    _require_same(path, list(columns), class_names)
    return [columns[name] for name in class_names]


def _lines(path: Path) -> Iterator[tuple[str, str, int]]:
    """Where it is, class and column of every line that is not empty."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, skipinitialspace=True))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"Cannot read the class map '{path}' ({error}); expected text with one line "
            "'class,column' for each class"
        ) from error
    for number, row in enumerate(rows, 1):
        fields = [field.strip() for field in row]
        where = f"line {number} of the class map '{path}'"
        if not any(fields):
            continue
        if len(fields) != 2:
            raise UserError(
                f"Expected 'class,column' in {where}, but got {','.join(row)!r}; a name with a "
                "comma needs quotes"
            )
        if not re.fullmatch("[0-9]{1,9}", fields[1]):
            raise UserError(
                f"Expected a column number, from 0, after '{fields[0]},' in {where}, but got "
                f"{fields[1]!r}{'; there is no header line' if number == 1 else ''}"
            )
        yield where, fields[0], int(fields[1])


def _require_same(path: Path, named: Sequence[str], class_names: Sequence[str]) -> None:
    missing = [name for name in class_names if name not in named]
    foreign = [name for name in named if name not in class_names]
    if missing:
        instead = f", and names {listed(foreign, _MOST_NAMES)} instead" if foreign else ""
        raise UserError(
            f"Expected every class in the class map '{path}', but it lacks "
            f"{listed(missing, _MOST_NAMES)}{instead}; write a line 'class,column' for each, with "
            "the names of the class folders"
        )
    if foreign:
        raise UserError(
            f"Expected only classes of the data in the class map '{path}', but it names "
            f"{listed(foreign, _MOST_NAMES)}; the data has {listed(class_names, _MOST_NAMES)}"
        )


@torch.no_grad()
def keep_columns(network: Classifier, columns: Sequence[int]) -> None:
    """Cut the last layer to these outputs, in this order."""
    head = network.head
    head.weight = nn.Parameter(head.weight[list(columns)])
    if head.bias is not None:
        head.bias = nn.Parameter(head.bias[list(columns)])
    head.out_features = len(columns)
