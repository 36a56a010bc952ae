"""What KDCI costs by its sizes: ``make bench``, or ``python -m benchmarks.kdci_costs [PART ...]``.

1. ``steps``: a student step without and with KDCI, by N.
2. ``fits``: a dictionary against FAISS alone at the same settings.
3. ``memory``: peaks of both, each in a process of its own (Linux only).
4. ``growth``: times by M, N, K and pixels, and by which power of each they grow.

All on the CPU. Times are CPU time of one thread, so that neighbours of the machine hardly count.
``--json FILE`` keeps the tables.
"""

import argparse
import json
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import psutil
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.against import where
from benchmarks.paired_timings import compensation_of, paired, student_step
from src.common.allocator import keep_freed_memory
from src.kdci.clustering import KMeans
from src.report.console import console

_CPU = torch.device("cpu")
_MIB = 2**20
_SIZES = (16, 64, 512, 4096)  # N
_CLASSES = (10, 100, 1000)  # K
_SIDES = (32, 64, 224)  # of an image
_FITS = ((50_000, 512, 100, 25), (1_000_000, 100, 512, 5))  # M, d, N and iterations


class Part(NamedTuple):
    """A table of results."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def main() -> None:
    """Print the parts that are named, or all."""
    arguments = _arguments()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run does
    found = {}
    for name in arguments.part or _PARTS:
        found[name] = _PARTS[name]()
        console().print(_table(found[name]))
    if arguments.json:
        kept = {name: part._asdict() for name, part in found.items()}
        arguments.json.write_text(json.dumps({"where": where(), **kept}, indent=1))


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description="What KDCI costs by its sizes.")
    parser.add_argument("part", nargs="*", help=f"{', '.join(_PARTS)}; all if none is named")
    parser.add_argument("--json", type=Path, help="file for the tables")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.part if name not in _PARTS]
    if unknown:
        parser.error(f"expected parts of {', '.join(_PARTS)}, but got {', '.join(unknown)}")
    return arguments


def steps() -> Part:
    """Student steps of a WRN-16-1 on 128 images of 10 classes."""
    part = Part("WRN-16-1 step: vanilla | KDCI", ("N", "first, ms", "second, ms", "ratio"), [])
    for count in _SIZES:
        pair = student_step(_CPU, width=1), student_step(_CPU, width=1, num_prototypes=count)
        part.rows.append((str(count), *paired(*pair, _CPU, clock=time.process_time)))
    return part


def fits() -> Part:
    """Whole fits of a dictionary."""
    columns = ("M x d, N", "first, ms", "second, ms", "ratio")
    part = Part("k-means: FAISS | dictionary", columns, [])
    for size in _FITS:
        pair = partial(fit, *size, alone=True), partial(fit, *size, alone=False)
        times = paired(*pair, _CPU, repeats=2, clock=time.process_time)
        part.rows.append((_named(size), *times))
    return part


def fit(rows: int, dim: int, count: int, iterations: int, *, alone: bool) -> None:
    """K-means of the same rows, by FAISS alone or into a dictionary."""
    data = _rows(rows, dim)
    if not alone:
        KMeans(count, iterations=iterations).fit(data)
        return
    faiss.omp_set_num_threads(1)
    search = faiss.Kmeans(
        dim,
        count,
        niter=iterations,
        seed=0,
        init_method=faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        min_points_per_centroid=1,
        max_points_per_centroid=rows,
    )
    search.train(data.numpy())


def memory() -> Part:
    """Peaks over what a process held before, in MiB."""
    part = Part("Peak of extra memory, MiB", ("of", "first", "second"), [])
    for count in _SIZES:
        peaks = [_peak("step", n) for n in (0, count)]
        part.rows.append((f"WRN-16-1 step: vanilla | KDCI, N={count}", *peaks))
    for size in _FITS:
        peaks = [_peak("fit", *size, alone) for alone in (True, False)]
        what = f"FAISS | dictionary, {_named(size)}, of {_data_mib(size):.0f}"
        part.rows.append((what, *peaks))
    forms = [_peak("compensation", 512, 1000, form) for form in ("geometric", "arithmetic")]
    part.rows.append(("geometric | arithmetic, B=256, K=1000, N=512", *forms))
    return part


def growth() -> Part:
    """Times of one size after another, in brackets the power of the size by which each grew."""
    part = Part("Growth, ms (power)", ("of", "by", "times"), [])
    for what, letter, repeats, actions in _growing():
        times = {size: _median(action, repeats) for size, action in actions.items()}
        part.rows.append((what, letter, ", ".join(_powers(times))))
    return part


def _growing() -> Iterator[tuple[str, str, int, Mapping[int, Callable[[], object]]]]:
    """What, by which size, how often each is timed, and the work of each size."""
    rows = {m: partial(fit, m, 100, 64, 5, alone=False) for m in (10_000, 100_000, 1_000_000)}
    yield "dictionary, d=100, N=64", "M", 1, rows
    for letter, dictionary in (
        ("N", {n: (20_000, 100, n) for n in _SIZES}),
        ("K", {k: (20_000, k, 64) for k in _CLASSES}),
    ):
        fits = {size: partial(fit, *sizes, 5, alone=False) for size, sizes in dictionary.items()}
        yield "dictionary, M=20,000", letter, 1, fits
    for form in ("geometric", "arithmetic"):
        for letter, pairs in (
            ("N", {n: (n, 10) for n in _SIZES}),
            ("K", {k: (512, k) for k in _CLASSES}),
        ):
            passes = {size: _compensated(128, *pair, form) for size, pair in pairs.items()}
            yield f"{form} compensation, B=128", letter, 5, passes
    step = partial(student_step, _CPU, width=1, num_prototypes=64, batch_size=16)
    sides = {side * side: step(image_size=side) for side in _SIDES}
    yield "WRN-16-1 step, N=64, B=16", "pixels", 5, sides


def _powers(times: Mapping[int, float]) -> Iterator[str]:
    before: tuple[int, float] | None = None
    for size, time_ in times.items():
        power = ""
        if before is not None:
            power = f" ({math.log(time_ / before[1]) / math.log(size / before[0]):.2f})"
        yield f"{size}: {time_:.1f}{power}"
        before = size, time_


def _table(part: Part) -> Table:
    title = f"{part.title} (CPU, 1 thread, torch {torch.__version__})"
    table = Table(box=SIMPLE_HEAD, title=title)
    for column in part.columns:
        table.add_column(column, justify="right")
    for row in part.rows:
        table.add_row(*row)
    return table


def _named(size: tuple[int, int, int, int]) -> str:
    rows, dim, count, _ = size
    return f"{rows} x {dim}, {count}"


def _data_mib(size: tuple[int, int, int, int]) -> float:
    return 4 * size[0] * size[1] / _MIB


@lru_cache(maxsize=1)
def _rows(rows: int, dim: int) -> torch.Tensor:
    """Random rows; the same tensor at every call."""
    draws = np.random.default_rng(0)
    return torch.from_numpy(draws.standard_normal((rows, dim), dtype=np.float32))


def _compensated(batch: int, count: int, classes: int, form: str) -> Callable[[], None]:
    """Forward and backward of a compensation alone."""
    compensation = compensation_of(count, classes, form)  # type: ignore[arg-type]
    logits = torch.randn(batch, classes, requires_grad=True)
    return lambda: compensation(logits).square().sum().backward()


def _median(action: Callable[[], object], repeats: int) -> float:
    """CPU milliseconds."""
    action()
    times: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        action()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def _peak(kind: str, *size: object) -> str:
    """In a new process, since the operating system's maximum never falls."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return f"{pool.apply(_peak_here, (kind, size)):.0f}"


def _peak_here(kind: str, size: tuple[object, ...]) -> float:
    torch.set_num_threads(1)
    keep_freed_memory()
    action = _action(kind, *size)
    before: int = psutil.Process().memory_info().rss
    for _ in range(1 if kind == "fit" else 2):  # an optimiser's first step makes its momentum
        action()
    return _most_mib() - before / _MIB


def _most_mib() -> float:
    """Peak of resident memory by Linux's count; `getrusage` counts the starting process's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    facts = dict(line.split(":", maxsplit=1) for line in lines)
    return int(facts["VmHWM"].split()[0]) / 1024


def _action(kind: str, *size: object) -> Callable[[], object]:
    if kind == "step":
        return student_step(_CPU, width=1, num_prototypes=size[0])  # type: ignore[arg-type]
    if kind == "compensation":
        return _compensated(256, *size)  # type: ignore[arg-type]
    *shape, alone = size
    fit(20, 2, 2, 1, alone=False)  # imports
    _rows(*shape[:2])
    return partial(fit, *shape, alone=alone)  # type: ignore[arg-type]


_PARTS: dict[str, Callable[[], Part]] = {
    "steps": steps,
    "fits": fits,
    "memory": memory,
    "growth": growth,
}

if __name__ == "__main__":
    main()
