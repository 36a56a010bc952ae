"""This program against a literal loop of the same work: ``python -m benchmarks.against_literal``.

Three processes take turns, each as it would work alone: the loop of :mod:`benchmarks.literal`;
this program, in channels_last; and its bare networks, which pass as many images forward and back
without losses, optimisers or stores. WRN-16-2 teaches WRN-16-1 at 32 pixels, batches of 64; a
round has five steps, where CMI's and DeepInv's have hundreds. Lightning's loop, the same for all,
is left out. Ratios are medians with quartiles of wall-clock time.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks import literal
from benchmarks.against import where, with_quartiles
from benchmarks.work import CLASSES, SIZE, composed, method_of, network_of_width, student_step
from src.common.allocator import keep_freed_memory
from src.common.augment import Augmentation
from src.common.device import has_native_bf16
from src.common.seeding import generator
from src.dataset.contract import ImageSpec
from src.network.generator import Generator
from src.substitution.contract import advance
from src.substitution.image_bank import ImageBank
from src.teacher.frozen import FrozenTeacher

_SPEC = ImageSpec(CLASSES, SIZE, (0.5,) * 3, (0.25,) * 3)
_BATCH = 64
_STEPS = {"student": 1, "dafl": 1, "deepinv": 5, "cmi": 5, "fast": 5}
NAMES = tuple(_STEPS)
_SIDES = ("literal", "ours", "bare")
_LATENTS = {"dafl": (512, 4), "cmi": (256, 2), "fast": (256, 2)}  # and initial multiplier
Action = Callable[[], object]


def main() -> None:
    """Print a table of all work, or of what is named."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)  # for the title
    title = f"literal | this program in {arguments.precision}: {where()}"
    table = Table(box=SIMPLE_HEAD, title=title)
    columns = ("work", "literal, ms", "ours, ms", "literal / ours", "ours / bare", "rounds")
    for column in columns:
        table.add_column(column, justify="left" if column == "work" else "right")
    found = {}
    for name in arguments.work or _STEPS:
        found[name] = _alternate(name, arguments)
        table.add_row(name, *_row(found[name]))
    Console(width=120).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"title": title, "seconds": found}, indent=1))


def _arguments() -> Any:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    help_ = f"{', '.join(NAMES)}; all if none is named"
    parser.add_argument("work", nargs="*", choices=[*NAMES, []], metavar="WORK", help=help_)
    own = "bf16-mixed" if has_native_bf16("cpu") else "32-true"
    help_ = f"of this program; default here: {own}"
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default=own, help=help_)
    parser.add_argument("--seconds", type=float, default=20, help="of each, at least")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--json", type=Path, help="file for all times")
    return parser.parse_args()


def _alternate(name: str, arguments: Any) -> list[list[float]]:
    """Seconds ``[[literal, ours, bare], ...]`` of rounds in turn."""
    with ExitStack() as stack:
        turns = [
            stack.enter_context(_process(side, name, arguments.precision, arguments.threads))
            for side in _SIDES
        ]
        for turn in turns:
            turn()
        found: list[list[float]] = []
        start = time.perf_counter()
        while time.perf_counter() - start < arguments.seconds or len(found) < 5:
            found.append([turn() for turn in turns])
    return found


@contextmanager
def _process(side: str, name: str, precision: str, threads: int) -> Iterator[Callable[[], float]]:
    """A process that does a piece of work whenever it is asked, and says how long it took."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(
        target=_serve, args=(there, side, name, precision, threads), daemon=True
    )
    process.start()
    there.close()

    def turn() -> float:
        here.send(True)
        seconds: float = here.recv()
        return seconds

    try:
        yield turn
    finally:
        here.close()
        process.join()


def _serve(pipe: Connection, side: str, name: str, precision: str, threads: int) -> None:
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        action = action_of(side, name, Path(folder), bf16=precision == "bf16-mixed")
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            start = time.perf_counter()
            action()
            pipe.send(time.perf_counter() - start)


def action_of(side: str, name: str, folder: Path, *, bf16: bool) -> Action:
    """A piece of work, ready to be done again and again, by ``literal``, ``ours`` or ``bare``."""
    if side == "literal":
        return _literal(name, folder)
    keep_freed_memory()  # as a run does
    return under_precision(_ours(name) if side == "ours" else _bare(name), bf16=bf16)


def under_precision(action: Action, *, bf16: bool) -> Action:
    """The same, in bfloat16 as Lightning has it: weights are cast anew in every step."""

    def cast() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16, cache_enabled=False):
            action()

    return cast


def _literal(name: str, folder: Path) -> Action:
    teacher, network = (
        network_of_width(width).to(memory_format=torch.contiguous_format) for width in (2, 1)
    )
    teacher.eval().requires_grad_(False)
    if name == "student":
        return literal.student(teacher, network, _SPEC, folder)
    if name == "dafl":
        return literal.dafl(teacher, _BATCH, _SPEC)
    network.eval().requires_grad_(False)
    method = {"deepinv": literal.deepinv, "cmi": literal.cmi, "fast": literal.fast}[name]
    return method(teacher, network, _BATCH, _STEPS[name], _SPEC, folder)


def _ours(name: str) -> Action:
    pair = ["pair=own", "teacher=wrn16_2", "student=wrn16_1"]
    words = ["dataset=cifar10", "budget=paper", *pair, f"baseline.batch_size={_BATCH}"]
    steps = "inner_steps" if name == "fast" else "steps"
    if _STEPS[name] > 1:
        words += [f"baseline.{steps}={_STEPS[name]}"]
    if name == "fast":
        words += ["substitution.warmup_rounds=0"]
    config = composed("dafl" if name == "student" else name, words)
    teacher, student = FrozenTeacher(network_of_width(2)), network_of_width(1)
    if name == "student":
        images = ImageBank.of(_SPEC, augmentation=Augmentation(4, 0.5))
        images.append(torch.randint(0, 256, (1024, 3, SIZE, SIZE), dtype=torch.uint8))
        draws = generator(torch.device("cpu"), 0, "bench")

        def batch() -> Tensor:
            return images.draw(128, draws).contiguous(memory_format=torch.channels_last)

        return student_step(teacher, student, config, batch)
    method = method_of(teacher, config)
    if name == "cmi":  # full, as in most rounds
        bank = method.contrast.bank
        bank.append(torch.randn_like(bank.rows))
    return lambda: advance(method, student)


def _bare(name: str) -> Action:
    teacher, student = network_of_width(2).eval().requires_grad_(False), network_of_width(1)
    images = torch.randn(128, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)

    def student_pass() -> None:
        with torch.no_grad():
            teacher(images)
        student(images).sum().backward()

    def synthesis_pass() -> None:
        for _ in range(_STEPS[name]):
            made = network(torch.randn(_BATCH, latent_dim)) if network else batch
            logits = [teacher(made)]
            if name != "dafl":
                logits.append(student(made))
            if name == "cmi":
                logits.append(teacher(made))  # its local view
            torch.stack(logits).sum().backward()

    if name == "student":
        return student_pass
    student.eval().requires_grad_(False)
    batch = images[:_BATCH].requires_grad_()
    latent_dim, multiplier = _LATENTS.get(name, (0, 0))
    network: nn.Module | None = None
    if latent_dim:
        network = Generator(
            image_size=SIZE, latent_dim=latent_dim, initial_multiplier=multiplier
        ).to(memory_format=torch.channels_last)
    return synthesis_pass


def _row(found: Sequence[Sequence[float]]) -> list[str]:
    first, ours, bare = zip(*found, strict=True)
    ratio = with_quartiles(a / b for a, b in zip(first, ours, strict=True))
    over = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
    shown = [f"{1000 * statistics.median(side):.1f}" for side in (first, ours)]
    return [*shown, ratio, f"{over:.3f}", str(len(found))]


if __name__ == "__main__":
    main()
