"""A sweep whose points run side by side, two processes each."""

import os
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from tests.smoke import Smoke

pytestmark = [pytest.mark.slow, pytest.mark.ddp, pytest.mark.xdist_group("ranks")]
SHARED = Path("/dev/shm")
POINTS = ["kdci.N=4,8", "seed=0,1", "trainer=ddp_cpu"]


def in_shared_memory() -> set[str]:
    """What joblib and torch have there; other programs of the machine come and go."""
    names = os.listdir(SHARED) if SHARED.is_dir() else []
    return {name for name in names if name.startswith(("joblib", "loky", "torch", "sem.loky"))}


def test_points_side_by_side_leave_their_runs_and_nothing_else(
    smoke: Smoke, tmp_path: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    before = in_shared_memory()
    launcher = ["hydra/launcher=machine", "hydra.launcher.n_jobs=2"]
    sweep = smoke.command(tmp_path, *POINTS, "--multirun", *launcher)
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
