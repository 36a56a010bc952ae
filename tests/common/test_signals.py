import os
import signal
import subprocess
import sys
import time

import pytest

from src.common import package

PROGRAM = """
import signal, sys, time
from src.common.signals import Interrupted, heed_signals, interruptible
heed_signals()
try:
    with interruptible():
        kept = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        print("ready", flush=True)
        time.sleep(60)
except Interrupted as error:
    print(error, flush=True)
    for number, handler in kept.items():  # as Lightning does when a fit ends
        signal.signal(number, handler)
    time.sleep(0.5)  # tidying up, in which no second signal may disturb
    print("tidy", flush=True)
    sys.exit(error.exit_code)
"""


WITHOUT_WORK = """
import time
from src.common.signals import heed_signals, interruptible
heed_signals()
with interruptible():
    pass
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    print("tidy", flush=True)
"""


def run(numbers: list[int], program: str = PROGRAM, **environment: str) -> tuple[int, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=package.ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.1)
    rest, _ = process.communicate(timeout=60)
    return process.returncode, rest


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_a_signal_has_its_exit_code_and_its_line(number: str, code: int) -> None:
    exit_code, said = run([getattr(signal, number)])
    assert exit_code == code
    assert said == f"Stopped by {number}; the same command goes on from what is saved\ntidy\n"


def test_a_second_signal_does_not_disturb() -> None:
    exit_code, said = run([signal.SIGTERM, signal.SIGTERM, signal.SIGINT])
    assert (exit_code, said.splitlines()[-1]) == (143, "tidy")


def test_a_rank_dies_at_once() -> None:
    assert run([signal.SIGTERM], TORCHELASTIC_RUN_ID="x") == (-signal.SIGTERM, "")


def test_what_the_starter_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        exit_code, _ = run([signal.SIGHUP, signal.SIGTERM])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert exit_code == 143


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 129)])
def test_where_nothing_is_to_be_tidied_up_the_end_comes_at_once(number: str, code: int) -> None:
    exit_code, said = run([getattr(signal, number)], WITHOUT_WORK)
    assert exit_code == code
    assert said == f"Error: Stopped by {number}; the same command goes on from what is saved\n"
