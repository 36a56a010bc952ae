"""This checkout against another revision: ``make bench BASE=<revision>``.

Both sources are loaded into one process, and each piece of work alternates between them, so that
neighbours of the machine slow both alike. Shown are medians, and the ratio of this one to the
other with its quartiles. ``--json FILE`` keeps all times. What a run does to its process, such as
keeping freed memory, neither side does.
"""

import argparse
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

_ROOT = Path(__file__).resolve().parent.parent
_CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    """Print a table of all work, or of what is named."""
    arguments = _arguments()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with checkout(arguments.base) as folder:
        base, here = (made(root, arguments.work) for root in (folder, _ROOT))
        times = {name: alternate(base[name], here[name], arguments.seconds) for name in here}
    title = f"{arguments.base} | this checkout: {where()}"
    table = Table(box=SIMPLE_HEAD, title=title)
    for column in ("work", "base, ms", "here, ms", "wall ratio (quartiles)", "CPU ratio", "pairs"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for name, found in times.items():
        table.add_row(name, *_row(found))
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"title": title, "seconds": times}, indent=1))


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("base", help="revision to compare with")
    parser.add_argument("work", nargs="*", help="student, evaluation, or methods; all if none")
    parser.add_argument("--seconds", type=float, default=20, help="of each, at least")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--json", type=Path, help="file for all times")
    return parser.parse_args()


@contextmanager
def checkout(revision: str) -> Iterator[Path]:
    """A folder with the files of a revision, while the block lasts."""

    def git(*words: str) -> None:
        subprocess.run(["git", "-C", str(_ROOT), "worktree", *words], check=True)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "base")
        git("add", "--quiet", "--detach", str(path), revision)
        try:
            yield path
        finally:
            git("remove", "--force", str(path))


def made(root: Path, names: Sequence[str]) -> dict[str, Callable[[], object]]:
    """The work of this checkout's :mod:`benchmarks.work`, on the source that lies below ``root``.

    All of it, before another source is loaded: what is imported by name comes from the last one.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == "src"]:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    try:
        spec = importlib.util.spec_from_file_location("work", _ROOT / "benchmarks" / "work.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"Expected '{_ROOT}/benchmarks/work.py' to be there")
        work = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(work)
        return {name: work.work_of(name) for name in names or work.NAMES}
    finally:
        sys.path.remove(str(root))


def alternate(
    base: Callable[[], object], here: Callable[[], object], seconds: float
) -> dict[str, list[list[float]]]:
    """Times of both ``[[base, here], ...]`` by clock; who is first alternates, too."""
    pair = (base, here)
    for action in pair:
        action()
    found: dict[str, list[list[float]]] = {name: [] for name in _CLOCKS}
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(found["wall"]) < 5:
        order = (0, 1) if len(found["wall"]) % 2 else (1, 0)
        spent = {name: [0.0, 0.0] for name in _CLOCKS}
        for side in order:
            before = {name: clock() for name, clock in _CLOCKS.items()}
            pair[side]()
            for name, clock in _CLOCKS.items():
                spent[name][side] = clock() - before[name]
        for name in _CLOCKS:
            found[name].append(spent[name])
    return found


def _row(found: dict[str, list[list[float]]]) -> list[str]:
    medians = [1000 * statistics.median(side) for side in zip(*found["wall"], strict=True)]
    ratio = with_quartiles(here / base for base, here in found["wall"])
    cpu = statistics.median(here / max(base, 1e-9) for base, here in found["cpu"])
    shown = [f"{median:.1f}" for median in medians]
    return [*shown, ratio, f"{cpu:.3f}", str(len(found["wall"]))]


def with_quartiles(ratios: Iterable[float]) -> str:
    """Median, and in brackets the quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def where() -> str:
    """Machine and versions."""
    threads = f"{torch.get_num_threads()} threads"
    return f"{platform.processor() or platform.machine()}, {threads}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
