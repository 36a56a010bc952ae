"""``python -m tests.chaos.soak``: a week of a lab: a parallel sweep, killed again and again."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.chaos.lab import DIGITS, Running, copy_tree, heed_all_signals, start_real
from tests.chaos.mishaps import ALL, Mishap, befall, role_of, schedule, targets
from tests.chaos.runs import command
from tests.chaos.traces import (
    SHARED,
    Check,
    accuracies,
    compare,
    contents,
    count_of,
    held_locks,
    in_shared_memory,
    made,
    members,
    none_of,
    words_of,
)
from tests.chaos.verdict import Outcome, crash_of, leftovers

# A point works for as long as it imports: else few mishaps would meet it at work.
_LENGTHS = {"teacher.fit.epochs": 20, "substitution.rounds": 200, "distill.epochs": 120}
_OTHERS = "substitution.log_every=5", "substitution.num_images=128"
_LAUNCHER = ("hydra/launcher=machine", "hydra.launcher.n_jobs=2")
_BASELINES = "dafl", "dfnd"  # a generator, and a sampler of a pool
_POLL = 0.2  # seconds
_GRACE = 60.0  # seconds in which what belongs to a sweep has to be gone after it
_A_POINT = 120.0  # seconds that no point of length 1 takes on a machine at rest


@dataclass(frozen=True)
class Grid:
    """Points of the sweep: two methods, with and without KDCI, and seeds.

    Attributes:
        points: How many; a multiple of six, or of four.
        length: How long each works, in units of about half a minute.
    """

    points: int
    length: int = 1

    @property
    def adjustments(self) -> tuple[str, ...]:
        return ("none", "weighting") if self.points % 6 else ("none", "backdoor", "weighting")

    @property
    def stages(self) -> int:
        """How many stages (a) its points share."""
        return self.points // len(self.adjustments)

    @property
    def overrides(self) -> tuple[str, ...]:
        seeds = map(str, range(self.stages // len(_BASELINES)))
        names = (_BASELINES, self.adjustments, seeds)
        axes = zip(("baseline", "kdci", "seed"), names, strict=True)
        lengths = (f"{key}={value * self.length}" for key, value in _LENGTHS.items())
        return (
            *DIGITS,
            *_OTHERS,
            *lengths,
            *(f"{key}={','.join(values)}" for key, values in axes),
        )


def number_of_points(text: str) -> int:
    """What the command line says.

    Raises:
        ArgumentTypeError: If no grid has as many.
    """
    points = int(text)
    if points < 4 or (points % 6 and points % 4):
        raise argparse.ArgumentTypeError(f"expected a multiple of 4 or 6, but got {text}")
    return points


class Soak:
    """One sweep that is disturbed, and taken up by the same command until it has finished.

    It begins anew, in a folder of its own, until all that was planned has been done to it.

    Args:
        folder: Empty folder for everything.
        grid: Its points.
        planned: What is done to it.
    """

    def __init__(self, folder: Path, grid: Grid, planned: Sequence[Mishap]) -> None:
        self.folder, self.grid, self.planned = folder, grid, list(planned)
        self.tree = copy_tree(folder / "tree")
        self.happened: list[str] = []
        self.faults: list[str] = []
        self.starts: list[Running] = []
        self.shaken: list[str] = []
        self.seconds: dict[str, float] = {}
        self.half_done = 0
        self._wiped: set[int] = set()
        self._due = float("inf")
        (folder / "tmp").mkdir()

    def run(self) -> None:
        """First in peace, then not; the same command again until it ends with exit code 0."""
        began = time.monotonic()
        self._follow(self._start("quiet"), quiet=True)
        self.seconds["quiet"] = time.monotonic() - began
        if self.faults:
            return
        began = time.monotonic()
        self._wait()
        while not self.faults and (self.planned or not self.shaken):
            self.shaken.append(f"shaken{len(self.shaken) + 1}")
            self._shake(self.shaken[-1])
        self.seconds[f"{len(self.shaken)} shaken"] = time.monotonic() - began

    def _shake(self, name: str) -> None:
        """One sweep, from its first start to its end."""
        limit = len(self.planned) + 3
        for _ in range(limit):
            if self._follow(self._start(name), quiet=False) == 0:
                return
        self.faults.append(f"{name}: not finished after {limit} starts")

    def close(self) -> None:
        """Kill what is left of what was started."""
        sessions = [running.pid for running in self.starts]
        for process in members(sessions):
            process.kill()
        for name in in_shared_memory(sessions):
            path = SHARED / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def story(self) -> str:
        """What has happened, and how long it took."""
        counts = Counter(self.happened).items()
        lines = [f"{number} x {kind}" for kind, number in sorted(counts)]
        times = ", ".join(f"{name} sweep {spent:.0f} s" for name, spent in self.seconds.items())
        half = f"{self.half_done} left something half done"
        return "\n".join([f"{len(self.starts) - 1} starts, {half}; {times}", *lines])

    def checks(self) -> list[Check]:
        """What there should be after all that, and what should not."""
        alive = self._outlived()
        # Joblib's helper tidies up after everybody else, and has been killed there itself.
        tidied = {running.pid for running in self.starts} - self._wiped
        return [
            none_of("starts that went wrong", self.faults),
            *(check for name in self.shaken for check in self._checks_of(name)),
            none_of("processes left", alive),
            none_of("locks held", held_locks(self.folder)),
            none_of("shared memory", in_shared_memory(tidied)),
        ]

    def _checks_of(self, name: str) -> list[Check]:
        """Of one sweep."""
        shaken, quiet = self.folder / name, self.folder / "quiet"
        found, expected = contents(shaken), contents(quiet)
        facts = accuracies(shaken)
        unfinished = [name for name, fact in facts.items() if '"finished"' not in fact]
        checks = [
            count_of("run folders", facts, self.grid.points),
            none_of("unfinished runs", unfinished),
            compare("accuracies as in the quiet sweep", facts, accuracies(quiet)),
            compare("files of tensors as in the quiet sweep", found, expected),
            count_of("teachers", made(found, r"cache/teacher/.*/teacher\.safetensors"), 1),
            count_of(
                "stages (a)", made(found, r"cache/substitution/[^/]*/[^/]*"), self.grid.stages
            ),
            none_of("temporary files", leftovers(shaken)),
        ]
        return [check._replace(what=f"{name}: {check.what}") for check in checks]

    def _start(self, name: str) -> Running:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        more = () if name == "quiet" else _LAUNCHER
        arguments = ("--multirun", *command(folder, self.grid.overrides), *more)
        running = Running(len(self.starts), folder, arguments, time.monotonic())
        self.starts.append(running)
        start_real(running, "src.run", self.tree, {"TMPDIR": str(self.folder / "tmp")})
        return running

    def _follow(self, running: Running, *, quiet: bool) -> int:
        """Wait for one start of a sweep, and see to it that it is not left in peace."""
        assert running.process is not None
        before = len(self.happened)
        limit = time.monotonic() + _GRACE + _A_POINT * self.grid.points * self.grid.length
        while running.process.poll() is None:
            time.sleep(_POLL)
            if not quiet and time.monotonic() > self._due and self._befall(running):
                self._wait()
            if time.monotonic() > limit:
                self.faults.append(f"start {running.number} hangs")
                running.send(signal.SIGKILL, group=True)
                running.process.wait()
        code = running.process.returncode
        self._judge(running, code, self.happened[before:])
        return code

    def _wait(self) -> None:
        """For the next mishap, over ends and starts: some waits are longer than a sweep."""
        self._due = time.monotonic() + self.planned[0].after if self.planned else float("inf")

    def _befall(self, running: Running) -> bool:
        """Let the next mishap happen, if it can yet."""
        processes = {process.pid: process for process in members([running.pid])}
        roles = {
            pid: role_of(words_of(process), is_leader=pid == running.pid)
            for pid, process in processes.items()
        }
        chosen = targets(self.planned[0], roles)
        if not chosen:
            return False
        mishap = self.planned.pop(0)
        _say(
            f"{time.monotonic() - running.started:6.1f} s of start {running.number}: {mishap.kind}"
        )
        befall(mishap, [processes[pid] for pid in chosen])
        self.happened.append(mishap.kind)
        if mishap.kind == ALL:
            self._wiped.add(running.pid)
        return True

    def _judge(self, running: Running, code: int, happened: Sequence[str]) -> None:
        _say(f"start {running.number} has ended with exit code {code}")
        self.half_done += bool(leftovers(running.folder))
        outcome = Outcome(code, running.stdout, running.stderr, 0.0, running.arguments)
        crash = crash_of(outcome)
        if crash is not None or (code != 0 and not happened):
            why = "an unforeseen end" if crash is None else crash.kind.value
            after = ", ".join(happened) or "nothing"
            self.faults.append(
                f"start {running.number}, {why} after {after}\n{outcome.evidence()}"
            )

    def _outlived(self) -> list[str]:
        _, alive = psutil.wait_procs(members(each.pid for each in self.starts), timeout=_GRACE)
        return [f"{process.pid}: {' '.join(words_of(process))}" for process in alive]


def table(checks: Sequence[Check]) -> str:
    """The table, and below it every fault."""
    width = max(len(check.what) for check in checks)
    rows = [
        f"{check.what.ljust(width)}  {check.count:4}  {'FAULT' if check.faults else 'right'}"
        for check in checks
    ]
    faults = [f"FAULT: {check.what}: {fault}" for check in checks for fault in check.faults]
    return "\n".join([*rows, *faults])


def main(argv: Sequence[str] | None = None) -> int:
    """Soak a sweep; 1 if anything is not as in the quiet one, or left behind."""
    arguments = _parser().parse_args(argv)
    planned = schedule(arguments.seed, arguments.kills, arguments.minutes * 60)
    heed_all_signals()
    folder = Path(tempfile.mkdtemp(prefix="kdci-soak-"))
    _say(f"seed {arguments.seed}, in {folder}")
    with closing(Soak(folder, Grid(arguments.points, arguments.length), planned)) as soak:
        soak.run()
        checks = soak.checks()
    _say(soak.story())
    _say(table(checks))
    if any(check.faults for check in checks):
        _say(f"everything is kept in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _length(text: str) -> int:
    length = int(text)
    if length < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, but got {text}")
    return length


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--points", type=number_of_points, default=24, help="of the sweep")
    parser.add_argument("--length", type=_length, default=1, help="of a point, in half minutes")
    parser.add_argument("--kills", type=int, default=24, help="and stops, and pauses")
    parser.add_argument("--minutes", type=float, default=8, help="over which they are spread")
    parser.add_argument("--seed", type=int, default=0, help="of all that is left to chance")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # and tidy up
    sys.exit(main())
