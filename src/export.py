"""``python -m src.export RUN --onnx --torch-export --int8``: a student for other runtimes.

RUN is the folder of a finished run. What is written is compared with the student, on test images
of the run's data set or, where that is not at hand, on those of --images.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from src.common.errors import MissingExtraError, UserError
from src.common.files import atomic_folder, writing
from src.common.sealed import DamagedError, digests, read_sealed, write_sealed
from src.dataset.walk import walk
from src.deploy import program, verify
from src.deploy.command import add_plugins, ended, own_cure
from src.deploy.student import WEIGHTS, DeployedStudent, here, load_student

_CARD = "export.json"
_TORCH, _ONNX, _INT8 = "student.pt2", "student.onnx", "student.int8.onnx"
_MOST_IMAGES, _CALIBRATION, _FEWEST = 2048, 128, 10
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
_EPILOG = """\
The programs take uint8 images [batch, 3, size, size], RGB, 0..255; normalisation is within. Beside
them lies export.json: input, output, classes, versions, and what was measured. Exit code: 0, or 2
if nothing was written.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write and verify the asked-for programs, print a table, and return the exit code."""
    arguments = _parser().parse_args(argv)
    return ended(lambda: _export(arguments))


def _export(arguments: argparse.Namespace) -> int:
    onnx = arguments.onnx or arguments.int8
    if not (onnx or arguments.torch_export):
        raise UserError("Expected at least one of --onnx, --int8 and --torch-export, but got none")
    if onnx:
        program.require_onnx()
    output: Path = arguments.output or arguments.run / "export"
    _require_free(output, force=arguments.force)
    student = load_student(arguments.run, arguments.plugin)
    images, calibration = _images(arguments, student).at_most(_MOST_IMAGES), None
    if arguments.int8:
        calibration, images = _apart(images)
    with own_cure(output), writing(output), atomic_folder(output) as folder:
        runners = _write(student, folder, arguments, calibration)
        measured = verify.measure(runners, images)
        _require(measured)
        card = _described(student) | {
            "opset": program.OPSET if onnx else None,
            "verified_on": {"images": len(images.pixels), "source": images.source},
            "calibrated_on": None if calibration is None else len(calibration.pixels),
            "tolerance": verify.TOLERANCE,
            "measured": {name: found.record() for name, found in measured.items()},
            "versions": _versions(),
        }
        files = sorted(path.name for path in folder.iterdir())
        write_sealed(folder / _CARD, card | {"checksums": digests(folder, files)})
        table = _table(measured, folder)
    count = len(images.pixels)
    sys.stdout.write(
        f"{table}\nOn {count} images ({images.source}), times on one thread\nIn '{output}'\n"
    )
    return 0


def _apart(images: verify.Images) -> tuple[verify.Images, verify.Images]:
    """Those to calibrate on, and those to measure on."""
    if len(images.pixels) < _FEWEST:
        raise UserError(
            f"Expected {_FEWEST} images at least for --int8, to calibrate on half of them, but "
            f"got {len(images.pixels)} ({images.source}); give more with --images FOLDER"
        )
    return images.apart(_CALIBRATION)


def _write(
    student: DeployedStudent,
    folder: Path,
    arguments: argparse.Namespace,
    calibration: verify.Images | None,
) -> dict[str, program.Runner]:
    traced = program.trace(student)
    runners = {verify.EAGER: program.batchwise(student)}
    if arguments.torch_export:
        runners[_TORCH] = program.save_torch(traced, folder / _TORCH)
    if arguments.onnx or arguments.int8:
        runners[_ONNX] = program.save_onnx(traced, folder / _ONNX)
    if calibration is not None:
        source, target = folder / _ONNX, folder / _INT8
        runners[_INT8] = program.save_int8(source, target, calibration.pixels)
    return runners


def _require(measured: dict[str, verify.Measured]) -> None:
    for name, found in measured.items():
        if name == _INT8:
            verify.require_alike(name, found)
        else:
            verify.require_equal(name, found, measured[verify.EAGER])


def _require_free(output: Path, *, force: bool) -> None:
    """Refuse to replace anything but what this command has written."""
    if not os.path.lexists(output):
        return
    try:
        read_sealed(output / _CARD)
    except DamagedError as error:
        raise UserError(
            f"Expected '{output}' not to exist or to be an earlier export, but it is none "
            f"({error}); give another --output"
        ) from error
    if not force:
        raise UserError(
            f"Expected '{output}' not to exist, but there is an export; replace it with --force, "
            "or give another --output"
        )


def _images(arguments: argparse.Namespace, student: DeployedStudent) -> verify.Images:
    if arguments.images is not None:
        return _images_in(arguments.images, student)
    try:
        return _images_of(arguments.run, arguments.plugin)
    except ModuleNotFoundError as error:
        library = str(error.name).partition(".")[0]
        raise MissingExtraError(library, "train", "give images with --images FOLDER") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"Cannot use the test images of the run ({error}); bring them back, or give images "
            "with --images FOLDER"
        ) from error


def _images_of(run: Path, plugins: Sequence[str]) -> verify.Images:
    """The test split of the run's data set.

    Raises:
        UserError: If the summary names no data set, or its data is not what the run has read.
    """
    # Imported here: these bring Hydra, which a student that is verified on a folder does not need.
    from src.config.node import build, refuse_foreign_targets
    from src.config.trial import check_node
    from src.report.summary import FILE_NAME, read_summary

    summary = read_summary(run / FILE_NAME)
    node = _called_here(summary["config"].get("dataset") or {}, plugins)
    refuse_foreign_targets("dataset", node, plugins)
    check_node("dataset", node, "dataset")
    dataset = build(node)
    if dataset.fingerprint() != summary["identity"]["contents"].get("dataset"):
        raise UserError(
            f"Expected the data that the run has read, but {_named(summary['dataset'], node)} "
            "holds other data now; bring it back, or give images with --images FOLDER"
        )
    split = dataset.test()
    return verify.Images(split.images, split.labels, f"test split of {summary['dataset']}")


def _called_here(value: Any, plugins: Sequence[str]) -> Any:
    """A node with our classes as they are called here, those within it too."""
    if isinstance(value, list):
        return [_called_here(each, plugins) for each in value]
    if not isinstance(value, dict):
        return value
    target = value.get("_target_")
    named = {"_target_": here(target, plugins)} if isinstance(target, str) else {}
    return {key: _called_here(inner, plugins) for key, inner in value.items()} | named


def _named(name: str, node: dict[str, Any]) -> str:
    """A data set, with the folder that it lies in, where it has one."""
    return f"{name} in '{node['root']}'" if "root" in node else name


def _images_in(folder: Path, student: DeployedStudent) -> verify.Images:
    """Those of a folder; labelled where all of them lie in folders named as classes."""
    names = walk(folder).images
    if not names:
        raise UserError(f"Expected images in '{folder}', but found none; name another --images")
    classes = {name: label for label, name in enumerate(student.card["class_names"])}
    labels = [classes.get(name.split("/")[0], -1) for name in names]
    # Of a large folder only those that will be looked at are decoded.
    taken = range(0, len(names), -(-len(names) // _MOST_IMAGES))
    pixels = student.pixels([folder / names[i] for i in taken])
    known = torch.tensor([labels[i] for i in taken]) if min(labels) >= 0 else None
    return verify.Images(pixels, known, f"folder '{folder}'")


def _described(student: DeployedStudent) -> dict[str, Any]:
    card, size = student.card, student.geometry.size
    channels = len(card["normalisation"]["mean"])
    return {
        "input": {
            "name": program.INPUT,
            "dtype": "uint8",
            "shape": ["batch", channels, size, size],
            "meaning": "RGB, 0..255; normalisation is within the program",
        },
        "output": {
            "name": program.OUTPUT,
            "dtype": "float32",
            "shape": ["batch", len(card["class_names"])],
        },
        **{key: card[key] for key in ("class_names", "image_size", "shorter_side")},
        "student": {"weights": card["checksums"][WEIGHTS], "accuracy": card["accuracy"]},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _table(measured: dict[str, verify.Measured], folder: Path) -> str:
    head = "program;accuracy, %;agreement, %;largest difference;ms, 1 image;ms, 32 images;MiB"
    rows = [head.split(";")]
    for name, found in measured.items():
        size = "" if name == verify.EAGER else f"{(folder / name).stat().st_size / 2**20:.2f}"
        accuracy = "" if found.acc1 is None else f"{found.acc1:.2f}"
        times = (f"{value:.2f}" for value in found.milliseconds.values())
        difference = f"{found.largest_difference:.2g}"
        rows.append([name, accuracy, f"{found.agreement:.2f}", difference, *times, size])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.export", description=__doc__, epilog=_EPILOG
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a finished run")
    parser.add_argument("--onnx", action="store_true", help=f"{_ONNX}, float32")
    parser.add_argument("--int8", action="store_true", help=f"{_INT8} beside it")
    parser.add_argument("--torch-export", action="store_true", help=f"{_TORCH}, of torch.export")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where to; RUN/export by default"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FOLDER",
        help="compare on these images, not on the run's; in folders named as the classes they "
        "also give accuracies",
    )
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    add_plugins(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
