"""Values that no option should have, and groups that are removed."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from hydra import compose, initialize_config_dir

from src import naming
from src.common import package
from src.common.leaves import leaves
from tests.chaos.lab import DIGITS, Lab, Running
from tests.chaos.runner import Case
from tests.chaos.runs import command, copy_of, reference
from tests.chaos.verdict import Kind, Outcome, Verdict, crash_of, judge_refusal

SMALL = ("kdci.N=${nowhere}", "~kdci", "seed=1=2", "+kdci.unknown=1", "kdci=null")
_MEMORY = 12 * 2**30
_ENOUGH = 4  # seconds, after which a run that has begun its work counts as accepted
_LIMIT = 30
_EACH = 2
_BEGUN = ("Training the teacher", "Reusing", "Stage (a)")
_VALUES = (
    "null",
    "abc",
    "-1",
    "0",
    "0.5",
    "1e30",
    "-1e30",
    "100000000000000000000",
    "nan",
    "inf",
    "[]",
    "[1,abc]",
    "{}",
    "{a:1}",
    "true",
    '""',
    "x" * 5000,
    "'größe 猫 \u202e'",
    "[[1],[2,3]]",
)
_KINDS = (
    (),
    ("baseline=cmi", "substitution.mode=online"),
    ("baseline=deepinv",),
    ("baseline=fast",),
    ("baseline=dfnd",),
    ("baseline=mosaickd",),
)
_GROUPS = ("dataset", "baseline", "teacher", "student", "kdci", "trainer", "logger", "paths")
_OTHERS = (
    *(f"~{group}" for group in _GROUPS),
    *(f"{group}=abc" for group in (*_GROUPS, "budget", "setting", "recipe", "experiments")),
    *(f"{group}=null" for group in _GROUPS),
    *(f"{group}=[]" for group in _GROUPS[:4]),
    "~dataset@pool",
    "dataset@pool=digits",
    "dataset@pool=abc",
    "+unknown=1",
    "+kdci.unknown=1",
    "+baseline.unknown=1",
    "+distill.optimizer.unknown=1",
    "+teacher.network.unknown=1",
    "unknown=1",
    "kdci.unknown=1",
    "~kdci.N",
    "~seed",
    "~baseline.generator",
    "~distill.optimizer.lr",
    "++seed=1",
    "kdci.N=${seed}",
    "kdci.N=${nowhere}",
    "kdci.N=${kdci.N}",
    "seed=${oc.env:NOWHERE}",
    "=1",
    "seed",
    "seed=",
    "seed=1=2",
    "--unknown",
    "--cfg",
    "-x",
    "kdci@other=backdoor",
    "hydra.run.dir=/dev/null/x",
    "budget@x=smoke",
)


def cases() -> list[Case]:
    """Every option of the default configuration and of the baselines with a few values each."""
    rng, found, seen = Random("values"), [], set()
    for kind in _KINDS:
        for leaf in _options(kind):
            if leaf in seen:
                continue
            seen.add(leaf)
            for value in rng.sample(_VALUES, _EACH):
                argument = f"{leaf}={value}"
                found.append(Case(argument[:60], partial(_value, kind, argument)))
    found += [Case(argument, partial(_value, (), argument)) for argument in _OTHERS]
    return found


def _options(kind: tuple[str, ...]) -> list[str]:
    os.environ["KDCI_ROOT"] = str(package.ROOT)
    with initialize_config_dir(str(package.CONF), version_base="1.3"):
        config: Any = naming.resolved(compose("config", [*DIGITS, *kind]))
    options = [leaf for leaf, _ in leaves(config)]
    nodes = {option.rpartition(".")[0] for option in options} - {""}
    return [*options, *sorted(nodes)]


def _value(kind: tuple[str, ...], argument: str, lab: Lab, folder: Path, rng: Random) -> Verdict:
    copy_of(reference(lab, (*DIGITS, *kind)).folder, folder)
    arguments = command(folder, [*DIGITS, *kind, "force=true", argument])
    running = lab.start(folder, arguments, memory=_MEMORY)
    outcome = _until_accepted(lab, running)
    if outcome is None:
        return Verdict(Kind.RIGHT)
    crash = crash_of(outcome)
    if crash is None and outcome.exit_code == 0:
        return Verdict(Kind.RIGHT)
    # 1: numbers that are not finite, or more memory than there is, show only while it runs.
    return crash or judge_refusal(outcome, codes=(1, 2))


def _until_accepted(lab: Lab, running: Running) -> Outcome | None:
    """How it ended; None for one that was still at work after a while, and is stopped."""
    deadline = time.monotonic() + _LIMIT
    while time.monotonic() < deadline and running.code is None:
        time.sleep(0.05)
        begun = any(word in running.stderr for word in _BEGUN)
        if begun and time.monotonic() - running.started > _ENOUGH:
            running.send(signal.SIGKILL, group=True)
            outcome = lab.wait(running)
            return None if outcome.exit_code == -signal.SIGKILL else outcome
    return lab.wait(running, 0.1)
