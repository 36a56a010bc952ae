"""Runs that are killed at any moment, and go on as if they had not been."""

import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random

from tests.chaos.lab import DIGITS, Lab
from tests.chaos.runner import Case
from tests.chaos.runs import command, finish, reference
from tests.chaos.verdict import Verdict

SMALL = ("dafl replay, change 1", "dafl replay, _twice 3")
_LONG = (
    "teacher.fit.epochs=2",
    "substitution.rounds=8",
    "substitution.log_every=1",
    "distill.epochs=6",
    "substitution.num_images=128",
)
_BASELINES = ("dafl", "fast", "cmi", "deepinv", "mosaickd", "dfnd")
# Moments that chance would seldom meet: part of a path that is about to be changed.
_MOMENTS = (
    "teacher.json",
    "artifact.json",
    "dictionaries",
    "student.safetensors",
    "student.json",
    "summary.json",
    "epoch",
)
_STRATA = 4
_Position = tuple[tuple[str, ...], tuple[int, int]]  # overrides, and a part of how many


def overrides_of(baseline: str, mode: str = "replay") -> tuple[str, ...]:
    """A configuration with enough epochs for moments to differ."""
    more = ("substitution.rounds=3",) if baseline == "dfnd" else ()
    online = ("substitution.mode=online", "substitution.warmup_rounds=3")
    return (*DIGITS, *_LONG, f"baseline={baseline}", *more, *(online if mode == "online" else ()))


def cases() -> list[Case]:
    """Every configuration, killed before changes of files, at times, and twice."""
    kinds = [(name, "replay") for name in _BASELINES] + [("dafl", "online"), ("cmi", "online")]
    found = []
    for index, (baseline, mode) in enumerate(kinds):
        overrides = overrides_of(baseline, mode)
        for stratum in range(_STRATA):
            part = (stratum, _STRATA)
            found.append(
                _case(f"{baseline} {mode}, change {stratum}", _at_change, overrides, part)
            )
            kind = _twice if stratum % 2 else _after_seconds
            found.append(
                _case(f"{baseline} {mode}, {kind.__name__} {stratum}", kind, overrides, part)
            )
        moment = _MOMENTS[index % len(_MOMENTS)]
        found.append(_case(f"{baseline} {mode}, at {moment}", _at_moment, overrides, moment))
    dafl = overrides_of("dafl")
    return found + [_case(f"dafl, at {each}", _at_moment, dafl, each) for each in _MOMENTS]


def _case(title: str, run: Callable[..., Verdict], *more: object) -> Case:
    return Case(title, partial(run, more=more))


def kill_at(lab: Lab, folder: Path, overrides: Sequence[str], change: int) -> None:
    """Kill a run before it changes a file for the given time."""
    lab.run(folder, command(folder, overrides), trap=(change, signal.SIGKILL))


def _position(rng: Random, part: tuple[int, int]) -> float:
    return (part[0] + rng.random()) / part[1]


def _at_change(lab: Lab, folder: Path, rng: Random, more: _Position) -> Verdict:
    overrides, part = more
    whole = reference(lab, overrides)
    kill_at(lab, folder, overrides, int(_position(rng, part) * len(whole.outcome.changes)))
    return finish(lab, folder, overrides, whole.result)


def _twice(lab: Lab, folder: Path, rng: Random, more: _Position) -> Verdict:
    overrides, part = more
    whole = reference(lab, overrides)
    kill_at(lab, folder, overrides, int(_position(rng, part) * len(whole.outcome.changes) * 0.8))
    kill_at(lab, folder, overrides, rng.randrange(3, 30))
    return finish(lab, folder, overrides, whole.result)


def _after_seconds(lab: Lab, folder: Path, rng: Random, more: _Position) -> Verdict:
    overrides, part = more
    whole = reference(lab, overrides)
    running = lab.start(folder, command(folder, overrides))
    time.sleep(_position(rng, part) * whole.outcome.seconds)
    running.send(signal.SIGKILL)
    lab.wait(running)
    return finish(lab, folder, overrides, whole.result)


def _at_moment(lab: Lab, folder: Path, rng: Random, more: tuple[tuple[str, ...], str]) -> Verdict:
    overrides, moment = more
    whole = reference(lab, overrides)
    at = [i for i, line in enumerate(whole.outcome.changes) if moment in line.split("/", 1)[-1]]
    kill_at(lab, folder, overrides, rng.choice(at) + rng.randrange(2))
    return finish(lab, folder, overrides, whole.result)
