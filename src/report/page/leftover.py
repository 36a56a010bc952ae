"""What a run leaves beside its summary, as far as it is there and whole."""

import base64
import io
import json
from contextlib import suppress
from math import isfinite, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from src.common.sealed import DamagedError
from src.report.metrics import metric_files, read_points

INSIDE, FEATURES = "inside.json", "features.safetensors"
_MOST_WIDTH, _MOST_PIXELS = 640, 64_000_000
_QUALITY = 85


class Classes(NamedTuple):
    """Shares ``[K]`` of the classes in the substitution data and in the original."""

    names: list[str]
    substitution: list[float]
    original: list[float]
    divergence: float


class Fid(NamedTuple):
    """Distance of the substitution images from the original ones, by an extractor's features."""

    extractor: str
    value: float
    images: int
    originals: int


class Agreement(NamedTuple):
    """How often student and teacher agree, as a share, over all and for each of the K classes.

    NaN stands for a class without test images.
    """

    overall: float
    per_class: list[float]


class Prototypes(NamedTuple):
    """Shares: ``prior`` and ``attention`` ``[N]``, ``classes`` ``[N, K]``.

    Classes are NaN for a prototype to which no image is nearest, as happens to random ones.
    """

    prior: list[float]
    attention: list[float] | None
    classes: NDArray[np.float64]


class Inside(NamedTuple):
    """What is known of a run's inside; None where it is absent or not as described."""

    classes: Classes | None = None
    fid: Fid | None = None
    agreement: Agreement | None = None
    prototypes: Prototypes | None = None
    inception_fid: Fid | None = None


def read_inside(folder: Path) -> Inside:
    """``inside.json`` of a run; whatever part of it is absent or of another form is None."""
    try:
        content = json.loads((folder / INSIDE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return Inside()
    if not isinstance(content, dict):
        return Inside()
    return Inside(
        _part(content, "classes", _classes),
        _part(content, "fid", _fid),
        _part(content, "agreement", _agreement),
        _part(content, "prototypes", _prototypes),
        _part(content, "inception_fid", _fid),
    )


def read_curve(folder: Path) -> dict[float, float]:
    """Test accuracy of the plain student in percent, by epoch, over all attempts of a run.

    The last attempt at an epoch counts.
    """
    curve: dict[float, float] = {}
    for path in metric_files(folder, "stage_b"):
        with suppress(DamagedError):  # what stands before the damage counts
            for point in read_points(path):
                epoch, acc = point.get("student/epoch", nan), point.get("student/acc", nan)
                if isfinite(epoch) and isfinite(acc):
                    curve[epoch] = acc
    return dict(sorted(curve.items()))


def read_features(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Features ``[n, d]`` and labels ``[n]`` of a run; None if there are none, or damaged ones."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(folder / FEATURES)
    except (OSError, SafetensorError, TypeError, KeyError):  # the latter: a type NumPy lacks
        return None
    features, labels = found.get("features"), found.get("labels")
    if features is None or labels is None or features.ndim != 2 or not len(features):
        return None
    if labels.shape != features.shape[:1] or not np.isfinite(features).all():
        return None
    return features.astype(np.float64), labels.astype(np.int64)


def read_picture(path: Path) -> tuple[str, int, int] | None:
    """An image as a ``data:`` address, its width and height; None if there is no whole one.

    At most 640 pixels wide, and a JPEG: noise, which substitution images are full of, takes five
    times as much as a PNG.
    """
    try:
        with Image.open(path) as found:
            if found.width * found.height > _MOST_PIXELS:
                return None
            picture = found.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    picture.thumbnail((_MOST_WIDTH, 4 * _MOST_WIDTH))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{text}", picture.width, picture.height


def _part(content: dict[str, Any], key: str, read: Any) -> Any:
    try:
        return read(content[key])
    except (KeyError, TypeError, ValueError):
        return None


def _classes(part: Any) -> Classes:
    names = [str(name) for name in part["names"]]
    substitution, original = (
        _finite(part[key], len(names)) for key in ("substitution", "original")
    )
    return Classes(names, substitution, original, _number(part["divergence"]))


def _fid(part: Any) -> Fid:
    value = _number(part["value"])
    return Fid(str(part["extractor"]), value, int(part["images"]), int(part["originals"]))


def _agreement(part: Any) -> Agreement:
    return Agreement(_number(part["overall"]), _known(part["per_class"]))


def _prototypes(part: Any) -> Prototypes:
    prior = _finite(part["prior"])
    attention = part.get("attention")
    width = max(len(row) for row in part["classes"] if row is not None)
    rows = [[nan] * width if row is None else _finite(row, width) for row in part["classes"]]
    classes = np.asarray(rows, dtype=np.float64)
    if len(classes) != len(prior):
        raise ValueError("Expected classes [N, K]")
    return Prototypes(prior, attention and _finite(attention, len(prior)), classes)


def _finite(values: Any, count: int | None = None) -> list[float]:
    """Finite numbers, and ``count`` of them, or ValueError or TypeError."""
    found = [float(value) for value in values]
    if not found or not all(map(isfinite, found)) or count not in (None, len(found)):
        raise ValueError("Expected finite numbers")
    return found


def _known(values: Any) -> list[float]:
    """Finite numbers, one at least, and NaN in the place of each None."""
    found = list(values)
    _finite(value for value in found if value is not None)
    return [nan if value is None else float(value) for value in found]


def _number(value: Any) -> float:
    (found,) = _finite([value])
    return found
