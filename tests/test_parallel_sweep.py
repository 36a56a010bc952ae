"""A sweep whose points run side by side, two processes each."""

import os
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from tests.chaos.traces import words_of
from tests.smoke import LIMIT, Smoke

pytestmark = [pytest.mark.slow, pytest.mark.ddp, pytest.mark.xdist_group("ranks")]
SHARED = Path("/dev/shm")
POINTS = ["kdci.N=4,8", "seed=0,1", "trainer=ddp_cpu"]
WORKER = "joblib.externals.loky.backend.popen_loky_posix"
LAUNCHER = ["--multirun", "hydra/launcher=machine", "hydra.launcher.n_jobs=2"]


@pytest.fixture(autouse=True)
def launcher_is_there() -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")


def in_shared_memory() -> set[str]:
    """What joblib and torch have there; other programs of the machine come and go."""
    names = os.listdir(SHARED) if SHARED.is_dir() else []
    return {name for name in names if name.startswith(("joblib", "loky", "torch", "sem.loky"))}


def test_points_side_by_side_leave_their_runs_and_nothing_else(
    smoke: Smoke, tmp_path: Path
) -> None:
    before = in_shared_memory()
    sweep = smoke.command(tmp_path, *POINTS, *LAUNCHER)
    assert sweep.exit_code == 0, sweep.stderr
    assert "4 points, 0 failed" in sweep.stdout
    assert "Warning" not in sweep.stderr
    found = [(each["seed"], each["kdci"]["N"], each["world_size"]) for each in sweep.summaries]
    assert sorted(found) == [(0, 4, 2), (0, 8, 2), (1, 4, 2), (1, 8, 2)]
    assert len(list(tmp_path.glob("digits_*/*/"))) == 4
    alive = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"])]
    assert not [line for line in alive if line and str(tmp_path) in " ".join(line)]
    for path in [*tmp_path.rglob("*.lock"), *smoke.cache.rglob("*.lock")]:
        with FileLock(path, timeout=0):
            pass
    assert in_shared_memory() <= before


@pytest.mark.parametrize(
    ("launcher", "awaited", "killed"),
    [
        (LAUNCHER, "hydra.mode=RUN", "--multirun"),
        (LAUNCHER, "hydra.mode=RUN", WORKER),
        (LAUNCHER, WORKER, "--multirun"),
        (["--multirun"], "hydra.mode=RUN", "--multirun"),
    ],
    ids=["sweep", "worker", "sweep without points yet", "sweep on its own"],
)
def test_nothing_outlives_what_was_killed_of_a_sweep(
    smoke: Smoke, tmp_path: Path, launcher: list[str], awaited: str, killed: str
) -> None:
    long = ["kdci.N=4,8,16", "substitution.rounds=100000"]
    at_once = 2 if launcher == LAUNCHER else 1
    with smoke.start(tmp_path, *long, *launcher) as process:
        sweep, started = psutil.Process(process.pid), list[psutil.Process]()
        try:
            until = time.monotonic() + LIMIT
            while len([p for p in started if awaited in words_of(p)]) < at_once:
                assert time.monotonic() < until
                time.sleep(0.2)
                started = sweep.children(recursive=True)
            next(p for p in [sweep, *started] if killed in words_of(p)).kill()
            _, alive = psutil.wait_procs(started, timeout=60)
            assert alive == []
            if killed == WORKER:
                stdout, stderr = process.communicate(timeout=60)
                assert process.returncode == 1
                assert " points, 2 failed; table in" in stdout
                assert "Error: The launcher lost a point of the sweep" in stderr
        finally:
            for each in started:
                if each.is_running():
                    each.kill()
