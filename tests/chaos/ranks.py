"""Runs of two processes, one of which is killed, or all of which are asked to stop."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from random import Random

import psutil

from src.report.summary import read_summary
from tests.chaos.lab import Lab, Running
from tests.chaos.resumes import overrides_of
from tests.chaos.runner import Case
from tests.chaos.runs import command, finish, reference, summaries
from tests.chaos.signals import judge_stop
from tests.chaos.verdict import Kind, Outcome, Verdict, crash_of

SMALL = ()  # each start takes seconds
_GONE_SECONDS = 15
_START_SECONDS = 60
_VICTIMS = ("rank 0", "rank 1", "parent", "parent, asked")


def cases() -> list[Case]:
    """Each process, killed at two moments."""
    return [
        Case(f"{victim} at moment {moment}", partial(_disturb, victim, moment))
        for victim in _VICTIMS
        for moment in range(2)
    ]


def _overrides() -> tuple[str, ...]:
    return (*overrides_of("dafl"), "trainer=ddp_cpu")


def _ranks(running: Running) -> dict[str, psutil.Process]:
    """The ranks that are there by now, by number."""
    found = {}
    try:
        for child in psutil.Process(running.pid).children(recursive=True):
            number = child.environ().get("RANK")
            if number is not None:
                found[f"rank {number}"] = child
    except psutil.Error:
        pass
    return found


def _wait_for_ranks(running: Running) -> dict[str, psutil.Process]:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        found = _ranks(running)
        if len(found) == 2:
            return found
        time.sleep(0.1)
    raise AssertionError("No ranks have appeared")


def _disturb(victim: str, moment: int, lab: Lab, folder: Path, rng: Random) -> Verdict:
    overrides = _overrides()
    whole = reference(lab, overrides)
    running = lab.start(folder, command(folder, overrides))
    ranks = _wait_for_ranks(running)
    since = time.monotonic() - running.started
    time.sleep((moment + rng.random()) / 2 * max(1.0, whole.outcome.seconds - since - 1))
    _strike(victim, running, ranks)
    outcome = lab.wait(running)
    left = _left(ranks)
    wrong = _judge(victim, outcome) or _judge_record(victim, outcome, folder)
    if wrong is None and left:
        wrong = Verdict(Kind.OTHER, f"left behind: {left}", outcome.evidence())
    return wrong or finish(lab, folder, overrides, whole.result)


def _strike(victim: str, running: Running, ranks: dict[str, psutil.Process]) -> None:
    if victim == "parent, asked":
        running.send(signal.SIGTERM)
    elif victim == "parent":
        running.send(signal.SIGKILL)
    else:
        try:
            os.kill(ranks[victim].pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _left(ranks: dict[str, psutil.Process]) -> list[str]:
    """Ranks that outlive the run; they are killed."""
    _, alive = psutil.wait_procs(list(ranks.values()), timeout=_GONE_SECONDS)
    for process in alive:
        process.kill()
    return [str(process) for process in alive]


def _judge(victim: str, outcome: Outcome) -> Verdict | None:
    if outcome.exit_code == 0:  # it was too late
        return crash_of(outcome)
    if victim == "parent":
        return None
    if victim == "parent, asked":
        return judge_stop(outcome, signal.SIGTERM)
    crash = crash_of(outcome)
    if crash is not None:
        return crash
    if (
        outcome.exit_code != 1
        or len(outcome.errors) != 1
        or victim not in outcome.errors[0].lower()
    ):
        return Verdict(Kind.OTHER, f"expected one line about {victim}", outcome.evidence())
    return None


def _judge_record(victim: str, outcome: Outcome, folder: Path) -> Verdict | None:
    """A run that was asked to stop is not recorded as failed, which may be deleted."""
    found = [read_summary(path)["status"] for path in summaries(folder)]  # none, at the beginning
    if victim != "parent, asked" or outcome.exit_code == 0 or found in ([], ["interrupted"]):
        return None
    return Verdict(
        Kind.OTHER, f"expected it to be interrupted, but got {found}", outcome.evidence()
    )
