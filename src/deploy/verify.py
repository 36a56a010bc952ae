"""What an exported program is worth: its answers and its speed beside the student's own."""

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from src.common.errors import UserError
from src.deploy.program import Runner

EAGER = "eager"
TOLERANCE = 1e-4
"""Largest difference of float logits, as a share of the largest logit (at least 1)."""
_LEAST_AGREEMENT = 50.0
_BATCHES = (1, 32)
_ROUNDS = 15


@dataclass(frozen=True)
class Images:
    """Real images to compare on.

    Attributes:
        pixels: ``[N, C, size, size]`` uint8.
        labels: ``[N]`` int64; None where they are not known.
        source: What they are, in words.
    """

    pixels: Tensor
    labels: Tensor | None
    source: str

    def __getitem__(self, index: Tensor) -> "Images":
        labels = None if self.labels is None else self.labels[index]
        return Images(self.pixels[index], labels, self.source)

    def at_most(self, count: int) -> "Images":
        """Evenly spaced ones, since data sets are sorted by class."""
        return self if len(self.pixels) <= count else self[_spaced(len(self.pixels), count)]

    def apart(self, count: int) -> tuple["Images", "Images"]:
        """Evenly spaced ones, at most ``count`` and a half of all, and the rest."""
        total = len(self.pixels)
        taken = _spaced(total, min(count, total // 2))
        rest = torch.ones(total, dtype=torch.bool)
        rest[taken] = False
        return self[taken], self[rest.nonzero().flatten()]


@dataclass(frozen=True)
class Measured:
    """A program beside the student's own answers.

    Attributes:
        largest_logit: Without its sign.
        largest_difference: Of two logits of the same image and class.
        agreement: Images of the same class, percent.
        acc1: Images of the right class, percent; None without labels.
        milliseconds: Median time of a batch on one thread, by its size.
    """

    largest_logit: float
    largest_difference: float
    agreement: float
    acc1: float | None
    milliseconds: dict[str, float]

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def measure(runners: Mapping[str, Runner], images: Images) -> dict[str, Measured]:
    """Compare programs with the one that is called :data:`EAGER`, and time all of them."""
    with _on_one_thread():
        times = _times(runners, images.pixels)
    expected = runners[EAGER](images.pixels)
    found = {}
    for name, run in runners.items():
        logits = run(images.pixels)
        classes = logits.argmax(dim=1)
        found[name] = Measured(
            float(logits.abs().max()),
            float((logits - expected).abs().max()),
            _percent(classes == expected.argmax(dim=1)),
            None if images.labels is None else _percent(classes == images.labels),
            times[name],
        )
    return found


def require_equal(name: str, measured: Measured, eager: Measured) -> None:
    """Refuse a float program whose logits are not the student's.

    Args:
        name: The program, for the message.
        measured: What was found of it.
        eager: What was found of the student itself.

    Raises:
        UserError: If they differ by more than :data:`TOLERANCE` allows, or are no numbers.
    """
    allowed = TOLERANCE * max(1.0, eager.largest_logit)
    if not measured.largest_difference <= allowed:  # nor is NaN
        raise UserError(
            f"Expected the logits of {name} to differ from the student's by {allowed:.2g} at "
            f"most, but they differ by {measured.largest_difference:.2g} and "
            f"{measured.agreement:.2f}% of the classes agree; nothing was written: use another "
            "format, and report this"
        )


def require_alike(name: str, measured: Measured) -> None:
    """Refuse a quantised program that is another classifier; what it loses below that is shown.

    Raises:
        UserError: If its classes agree with the student's for less than half of the images, or
            its logits are no numbers.
    """
    if measured.agreement < _LEAST_AGREEMENT or not isfinite(measured.largest_difference):
        raise UserError(
            f"Expected {name} to agree with the student on {_LEAST_AGREEMENT:.0f}% of the images "
            f"at least, but it does on {measured.agreement:.2f}%; nothing was written: give more "
            "typical images with --images FOLDER, or leave out --int8"
        )


def _spaced(total: int, count: int) -> Tensor:
    return torch.arange(count) * total // max(count, 1)


def _percent(hits: Tensor) -> float:
    return round(100 * hits.double().mean().item(), 4)


def _times(runners: Mapping[str, Runner], pixels: Tensor) -> dict[str, dict[str, float]]:
    """Milliseconds; in turns, so that a busy moment does not hit one program alone."""
    found: dict[str, dict[str, float]] = {name: {} for name in runners}
    for size in _BATCHES:
        batch = pixels[torch.arange(size) % len(pixels)]
        rounds: dict[str, list[float]] = {name: [] for name in runners}
        for _ in range(_ROUNDS):
            for name, run in runners.items():
                rounds[name].append(_time(run, batch))
        for name, times in rounds.items():
            found[name][str(size)] = round(statistics.median(times), 4)
    return found


@contextmanager
def _on_one_thread() -> Iterator[None]:
    """Threads that wait for a busy core cost more than they gain, and differ by runtime."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _time(run: Runner, batch: Tensor) -> float:
    start = time.perf_counter()
    run(batch)
    return 1000 * (time.perf_counter() - start)
