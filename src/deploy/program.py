"""A deployed student as a program for other runtimes: torch.export, ONNX, and ONNX in int8."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

from src.common.errors import MissingExtraError
from src.deploy.student import DeployedStudent

INPUT, OUTPUT = "images", "logits"
OPSET = 18  # the oldest that torch's exporter writes without converting, so that most can read it
_SHAPES = {INPUT: {0: Dim("batch")}}
_BATCH = 64

Runner = Callable[[Tensor], Tensor]


class _Program(nn.Module):
    """Without the checks of the student, whose branches on values cannot be exported.

    Of uint8 alone: pixels in another range, or normalised already, are then no input at all.
    """

    def __init__(self, student: DeployedStudent) -> None:
        super().__init__()
        self.network, self.normalisation = student.network, student.normalisation

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalisation.from_uint8(images))
        return logits


def require_onnx() -> None:
    """Refuse what cannot be done without the extra ``export``.

    Raises:
        MissingExtraError: If one of its packages is not installed.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(" and ".join(missing), "export")


def trace(student: DeployedStudent) -> ExportedProgram:
    """The program: uint8 ``[batch, C, size, size]`` to logits ``[batch, K]``, any batch."""
    size, channels = student.geometry.size, student.normalisation.mean.shape[1]
    # Two, because one would be taken for a constant; their values do not matter.
    example = torch.zeros(2, channels, size, size, dtype=torch.uint8)
    module = _Program(student).eval()
    return export(module, (example,), dynamic_shapes=_SHAPES, strict=False)  # as from 2.7 on


def save_torch(program: ExportedProgram, path: Path) -> Runner:
    """Write a ``.pt2`` file; what runs it as read back."""
    torch.export.save(program, path)
    return batchwise(torch.export.load(path).module())


def save_onnx(program: ExportedProgram, path: Path) -> Runner:
    """Write an ONNX file, weights within; what runs it as read back."""
    found = torch.onnx.export(
        program,
        dynamo=True,
        dynamic_shapes=_SHAPES,  # of the program, too, but it has lost the name of the batch
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=OPSET,
        verbose=False,
    )
    cast("torch.onnx.ONNXProgram", found).save(path, external_data=False)
    return onnx_runner(path)


def save_int8(source: Path, path: Path, calibration: Tensor) -> Runner:
    """Quantise an ONNX file statically, with ranges a channel; what runs the result.

    Args:
        source: Float ONNX file.
        path: Where to.
        calibration: Images ``[N, C, size, size]`` uint8 that fix the ranges of activations.
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts = iter(calibration.split(_BATCH))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {INPUT: part.numpy()}

    # Weights of 7 bits: with 8, sums saturate in silence on x86 without VNNI instructions, and the
    # accuracy depends on the processor (a student of digits lost 8 points with AVX2).
    with _unadvised():
        quantize_static(source, path, Reader(), per_channel=True, reduce_range=True)
    return onnx_runner(path)


def onnx_runner(path: Path) -> Runner:
    """What runs an ONNX file, on one thread."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(np.asarray(logits))

    return batchwise(run)


def batchwise(run: Runner) -> Runner:
    """The same for any number of images, a few at a time and without gradients."""

    @torch.no_grad()
    def all_of(images: Tensor) -> Tensor:
        return torch.cat([run(part) for part in images.split(_BATCH)])

    return all_of


@contextmanager
def _unadvised() -> Iterator[None]:
    """Without the advice to fold batch normalisation first: torch's exporter has done that."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
