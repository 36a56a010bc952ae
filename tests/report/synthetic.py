"""Folders of runs as ``src.run`` leaves them, made up: summaries and the files beside them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from src.report.summary import Summary, write_summary

CLASSES = 4
METRICS = """\
epoch,step,student/acc,student/acc_best,student/distillation,student/epoch
0,9,{0},{0},,
0,9,,,0.7,1.0
1,19,{1},{1},,
1,19,,,0.3,2.0
"""


def write_run(folder: Path, summary: Summary, left: bool = True) -> Path:
    """One run; ``left``: with all that one may leave beside its summary, drawn by its seed."""
    (folder / "metrics" / "stage_b").mkdir(parents=True)
    write_summary(summary, folder)
    if summary["status"] != "finished" or not left:
        return folder
    last = summary["acc1"]["last"]
    curve = METRICS.format(last - 10, last)
    (folder / "metrics" / "stage_b" / "metrics.csv").write_text(curve)
    _write_inside(folder, summary["seed"], summary["kdci"]["N"])
    return folder


def write_runs(
    root: Path, make: Callable[..., Summary], make_kdci: Callable[..., Summary], count: int
) -> list[Path]:
    """``count`` runs of six baselines: seeds 0 to 4, vanilla and four N, up to two budgets."""
    folders = []
    for number in range(count):
        rest, seed = divmod(number, 5)
        rest, kind = divmod(rest, 5)
        rest, method = divmod(rest, 6)
        options = {
            "seed": seed,
            "baseline": ("dafl", "fast", "cmi", "deepinv", "mosaickd", "dfnd")[method],
            "budget": f"budget{rest}",
        }
        last = 60 + 3.1 * method + 1.7 * seed % 4
        size = (None, 8, 16, 32, 64)[kind]
        kdci = {"kdci": {"N": size}}
        gained = last + 0.4 * kind + 0.7 * (seed * 3 % 5 - 2)
        run = make_kdci(gained, **options, **kdci) if size else make(last, **options)
        folders.append(write_run(root / f"{number:03}", run))
    return folders


def _write_inside(folder: Path, seed: int, size: int | None) -> None:
    draw = np.random.default_rng(seed)
    found: dict[str, Any] = {
        "classes": {
            "names": ["zero", "one", "two", "three"],
            "substitution": [0.1, 0.2, 0.3, 0.4],
            "original": [0.25] * CLASSES,
            "divergence": 0.1064,
        },
        "fid": {"extractor": "teacher", "value": 40.0 + seed, "images": 256, "originals": 360},
        "inception_fid": {
            "extractor": "InceptionV3, weights 6726825d",
            "value": 300.0 + seed,
            "images": 200,
            "originals": 200,
        },
        "agreement": {"overall": 0.75, "per_class": [0.5, 0.75, 0.75, 1.0]},
    }
    if size is not None:
        found["prototypes"] = {
            "prior": draw.dirichlet(np.ones(size)).tolist(),
            "classes": draw.dirichlet(np.ones(CLASSES), size).tolist(),
            "attention": draw.dirichlet(np.ones(size)).tolist(),
        }
        _write_noise(folder / "prototypes.png", draw, (160, 80))
    _write_noise(folder / "substitution.png", draw, (136, 546))
    (folder / "inside.json").write_text(json.dumps(found))
    labels = draw.integers(0, CLASSES, 40)
    features = draw.normal(size=(40, 8)).astype(np.float32)
    save_file({"features": features, "labels": labels}, folder / "features.safetensors")


def _write_noise(path: Path, draw: np.random.Generator, size: tuple[int, int]) -> None:
    Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
