import os
import subprocess
import sys

import pytest

from src.common import package
from src.common import parent as module
from src.common.parent import PARENT, follow_parent

PROGRAM = """
import sys, time
from src.common.parent import follow_parent
from src.common.signals import heed_signals
heed_signals()
follow_parent()
time.sleep(float(sys.argv[1]))
"""
NOBODY = "0"


def end_of(parent: str | None, seconds: float = 60, **environment: str) -> tuple[int, str]:
    own = {} if parent is None else {PARENT: parent}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(seconds)],
        cwd=package.ROOT,
        env=os.environ | own | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return ended.returncode, ended.stderr


def test_a_point_whose_parent_has_died_stops_as_if_it_had_been_asked_to() -> None:
    said = "Error: Stopped by SIGTERM; the same command goes on from what is saved\n"
    assert end_of(NOBODY) == (143, said)


def test_a_rank_whose_parent_has_died_leaves_without_a_word() -> None:
    assert end_of(NOBODY, TORCHELASTIC_RUN_ID="x") == (1, "")


@pytest.mark.parametrize("is_named", [True, False])
def test_a_process_whose_parent_lives_goes_on(is_named: bool) -> None:
    assert end_of(str(os.getpid()) if is_named else None, seconds=0.1) == (0, "")


@pytest.mark.parametrize("is_rank", [True, False])
def test_neither_ranks_nor_points_hand_their_parent_down(
    is_rank: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[str] = []
    monkeypatch.setattr(module, "follow", lambda who, _: followed.append(who))
    monkeypatch.setattr(module, "is_rank", lambda: is_rank)
    monkeypatch.setenv(PARENT, "7")
    follow_parent()
    follow_parent()  # as a process would that this one has started
    assert (followed, PARENT in os.environ) == (["7"], False)
