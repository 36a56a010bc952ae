"""Runs and sweeps that are asked to stop, also before they have begun."""

import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random

from tests.chaos.lab import DIGITS, Lab
from tests.chaos.resumes import overrides_of
from tests.chaos.runner import Case
from tests.chaos.runs import command, copy_of, finish, reference, result_of, summaries
from tests.chaos.verdict import Kind, Outcome, Verdict, crash_of

SMALL = ("SIGTERM at a change",)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_IMPORT_SECONDS = 6.0
_EACH = 10
_REAL = 5


def cases() -> list[Case]:
    """Each signal before changes of files, twice at once, in real processes and in sweeps."""
    found = []
    for number in _SIGNALS:
        name = number.name
        at_change = [partial(_at_change, number, (i, _EACH)) for i in range(_EACH)]
        found += [Case(f"{name} at a change", run) for run in at_change]
        after = [partial(_after_seconds, number, i) for i in range(_REAL)]
        found += [Case(f"{name} after seconds", run) for run in after]
        found.append(Case(f"{name}, many", partial(_many, number)))
        found += [Case(f"{name}, sweep", partial(_sweep, number, i)) for i in range(2)]
    return found


def judge_stop(outcome: Outcome, number: int) -> Verdict | None:
    """What is wrong with how a program stopped; None if nothing is."""
    crash = crash_of(outcome)
    if crash is not None:
        return crash
    if outcome.exit_code == -number and not outcome.stderr:
        return None  # before the program could heed signals; a shell calls it 128 + number, too
    if outcome.exit_code != 128 + number:
        return Verdict(Kind.OTHER, f"expected exit code {128 + number}", outcome.evidence())
    if len(outcome.errors) != 1 or "same command goes on" not in outcome.errors[0]:
        return Verdict(Kind.OTHER, "expected one line", outcome.evidence())
    return None


def _stopped(
    lab: Lab, folder: Path, overrides: Sequence[str], outcome: Outcome, number: int
) -> Verdict:
    """It has stopped as it should, or had finished already; then it goes on."""
    wrong = None if outcome.exit_code == 0 else judge_stop(outcome, number)
    return wrong or finish(lab, folder, overrides, reference(lab, overrides).result)


def _at_change(
    number: signal.Signals, part: tuple[int, int], lab: Lab, folder: Path, rng: Random
) -> Verdict:
    overrides = overrides_of("dafl")
    count = len(reference(lab, overrides).outcome.changes)
    at = int((part[0] + rng.random()) / part[1] * count)
    outcome = lab.run(folder, command(folder, overrides), trap=(at, number))
    return _stopped(lab, folder, overrides, outcome, number)


def _after_seconds(
    number: signal.Signals, index: int, lab: Lab, folder: Path, rng: Random
) -> Verdict:
    """In a process of its own: the first ones fall into the imports."""
    overrides = overrides_of("dafl")
    running = lab.start(folder, command(folder, overrides), real=True)
    time.sleep(0.4 + (index + rng.random()) / _REAL * 1.3 * _IMPORT_SECONDS)
    running.send(number)
    return _stopped(lab, folder, overrides, lab.wait(running), number)


def _many(number: signal.Signals, lab: Lab, folder: Path, rng: Random) -> Verdict:
    """Somebody is impatient."""
    overrides = overrides_of("dafl")
    seconds = reference(lab, overrides).outcome.seconds
    running = lab.start(folder, command(folder, overrides))
    time.sleep(0.3 + rng.random() * seconds * 0.7)
    for _ in range(5):
        running.send(number)
        time.sleep(0.01)
    return _stopped(lab, folder, overrides, lab.wait(running), number)


def _sweep(number: signal.Signals, index: int, lab: Lab, folder: Path, rng: Random) -> Verdict:
    points = {n: reference(lab, (*DIGITS, f"kdci.N={n}")) for n in (4, 8)}
    shared = copy_of(points[4].folder, folder)
    arguments = ["--multirun", *command(shared, DIGITS), "kdci.N=4,8"]
    running = lab.start(folder, arguments, real=True)
    time.sleep(2 + (index + rng.random()) * 4)
    running.send(number, group=index == 0)  # as a terminal does, or as `kill` does
    outcome = lab.wait(running)
    wrong = None if outcome.exit_code == 0 else judge_stop(outcome, number)
    if wrong is not None:
        return wrong
    again = lab.run(folder, arguments, real=True)
    found = {result_of(path) for path in summaries(folder)}
    crash = crash_of(again)
    if crash is None and again.exit_code != 0:
        crash = Verdict(Kind.OTHER, f"exit code {again.exit_code}", again.evidence())
    if crash is None and found != {point.result for point in points.values()}:
        crash = Verdict(Kind.SILENT, "other results", again.evidence())
    return crash or Verdict(Kind.RIGHT)
