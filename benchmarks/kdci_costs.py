"""What KDCI costs by its sizes: ``make bench``, or ``python -m benchmarks.kdci_costs [PART ...]``.

1. ``steps``: a student step without and with KDCI, by N.
2. ``fits``: a dictionary against FAISS alone at the same settings.
3. ``memory``: peaks of both, each in a process of its own (Linux only).
4. ``growth``: seconds by M, N and K; nothing may grow faster than they do.

All on the CPU. Times are CPU time of one thread, so that neighbours of the machine hardly count.
"""

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import faiss
import numpy as np
import psutil
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.paired_timings import compensation_of, paired, student_step
from src.kdci.clustering import KMeans
from src.report.console import console

_CPU = torch.device("cpu")
_MIB = 2**20
_SIZES = (16, 64, 512, 4096)
_FITS = ((50_000, 512, 100, 25), (1_000_000, 100, 512, 5))  # M, d, N and iterations


def main() -> None:
    """Print the parts that are named, or all."""
    parts: dict[str, Callable[[], Table]] = {
        "steps": steps,
        "fits": fits,
        "memory": memory,
        "growth": growth,
    }
    torch.set_num_threads(1)
    for name in sys.argv[1:] or parts:
        console().print(parts[name]())


def steps() -> Table:
    """Student steps of a WRN-16-1 on 128 images of 10 classes."""
    table = _table("WRN-16-1 step: vanilla | KDCI", "N", "first, ms", "second, ms", "ratio")
    for count in _SIZES:
        pair = student_step(_CPU, width=1), student_step(_CPU, width=1, num_prototypes=count)
        table.add_row(str(count), *paired(*pair, _CPU, clock=time.process_time))
    return table


def fits() -> Table:
    """Whole fits of a dictionary."""
    table = _table("k-means: FAISS | dictionary", "M x d, N", "first, ms", "second, ms", "ratio")
    for size in _FITS:
        pair = partial(fit, *size, alone=True), partial(fit, *size, alone=False)
        times = paired(*pair, _CPU, repeats=2, clock=time.process_time)
        table.add_row(_named(size), *times)
    return table


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


def memory() -> Table:
    """Peaks over what a process held before, in MiB."""
    table = _table("Peak of extra memory, MiB", "of", "first", "second")
    for count in _SIZES:
        peaks = [_peak("step", n) for n in (0, count)]
        table.add_row(f"WRN-16-1 step: vanilla | KDCI, N={count}", *peaks)
    for size in _FITS:
        peaks = [_peak("fit", *size, alone) for alone in (True, False)]
        table.add_row(f"FAISS | dictionary, {_named(size)}, of {_data_mib(size):.0f}", *peaks)
    forms = [_peak("compensation", 512, 1000, form) for form in ("geometric", "arithmetic")]
    table.add_row("geometric | arithmetic, B=256, K=1000, N=512", *forms)
    return table


def growth() -> Table:
    """Seconds, or milliseconds, of one size after another."""
    table = _table("Growth", "of", "by", "times")
    fitted = [
        f"{rows}: {_median(partial(fit, rows, 100, 64, 5, alone=False), 1):.0f}"
        for rows in (10_000, 100_000, 1_000_000)
    ]
    table.add_row("dictionary, d=100, N=64, ms", "M", ", ".join(fitted))
    for form in ("geometric", "arithmetic"):
        sizes = {"N": [(n, 10) for n in _SIZES], "K": [(512, k) for k in (10, 100, 1000)]}
        for letter, pairs in sizes.items():
            times = [f"{pair}: {_median(_compensated(128, *pair, form)):.1f}" for pair in pairs]
            table.add_row(f"{form} compensation, B=128, (N, K), ms", letter, ", ".join(times))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, title=f"{title} (CPU, 1 thread, torch {torch.__version__})")
    for column in columns:
        table.add_column(column, justify="right")
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


def _median(action: Callable[[], object], repeats: int = 5) -> float:
    """CPU milliseconds."""
    action()
    times = []
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
    action = _action(kind, *size)
    before = psutil.Process().memory_info().rss
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
    _rows(*shape[:2])  # type: ignore[arg-type]
    return partial(fit, *shape, alone=alone)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
