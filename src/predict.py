"""``python -m src.predict RUN FOLDER --output FILE.csv``: a student's predictions for images.

RUN is the folder of a finished run, or a copy of its student.json and student.safetensors.
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from src.common.errors import UserError, in_one_line
from src.common.files import atomic_write
from src.dataset.decode import decode_files
from src.dataset.walk import walk
from src.deploy.command import add_plugins, ended, own_cure
from src.deploy.student import DeployedStudent, load_student

_BATCH = 64
_EPILOG = """\
One row an image at any depth of FOLDER: its path there, its class, and the probability of every
class. An unreadable image is named on stderr and left out. Exit code: 0, 1 if images were left
out, 2 if nothing was written.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the predictions and return the exit code."""
    arguments = _parser().parse_args(argv)
    return ended(lambda: _predict(arguments))


def _predict(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    if os.path.lexists(output) and not (arguments.force and output.is_file()):
        cure = "name another, or replace a file with --force"
        raise UserError(f"Expected '{output}' not to exist, but it does; {cure}")
    if not arguments.folder.is_dir():
        raise UserError(f"Expected a folder of images, but '{arguments.folder}' is none")
    names = walk(arguments.folder).images
    if not names:
        raise UserError(f"Expected images in '{arguments.folder}', but found none")
    student = load_student(arguments.run, arguments.plugin)
    with own_cure(output), atomic_write(output) as temporary:
        # A file name is bytes; what is no UTF-8 in it shall name the file still.
        with temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            left_out = _write(student, arguments.folder, names, file)
        if left_out == len(names):
            raise UserError(f"None of the {left_out} images in '{arguments.folder}' can be read")
    sys.stdout.write(f"{len(names) - left_out} predictions in '{output}', {left_out} left out\n")
    return 1 if left_out else 0


def _write(student: DeployedStudent, folder: Path, names: Sequence[str], file: TextIO) -> int:
    """Write all rows; how many images were left out."""
    classes = student.card["class_names"]
    rows = csv.writer(file)
    rows.writerow(["file", "class", *(f"p({name})" for name in classes)])
    left_out = 0
    for start in range(0, len(names), _BATCH):
        part = names[start : start + _BATCH]
        readable = dict(_readable(student, folder, part))
        left_out += len(part) - len(readable)
        if readable:
            found = student.probabilities(torch.stack(list(readable.values())))
            for name, row in zip(readable, found, strict=True):
                chances = [f"{chance:.6g}" for chance in row.tolist()]
                rows.writerow([name, classes[int(row.argmax())], *chances])
    return left_out


def _readable(
    student: DeployedStudent, folder: Path, names: Sequence[str]
) -> Iterator[tuple[str, Tensor]]:
    paths = [f"{folder}{os.sep}{name}" for name in names]
    for name, result in zip(names, decode_files(paths, student.geometry), strict=True):
        if isinstance(result, str):
            sys.stderr.write(f"Left out: {name!r} ({in_one_line(result)})\n")
        else:
            yield name, torch.from_numpy(result)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.predict", description=__doc__, epilog=_EPILOG
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="images, at any depth")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="CSV file")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    add_plugins(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
