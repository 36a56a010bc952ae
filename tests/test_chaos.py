"""A small share of ``make chaos``, and that it can fail at all."""

import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.chaos.__main__ import main
from tests.chaos.lab import Lab, copy_tree
from tests.chaos.runner import Case, run_part, table
from tests.chaos.signals import judge_stop
from tests.chaos.verdict import Kind, Outcome, Verdict, judge, judge_refusal, leftovers

_TRACEBACK = "Traceback (most recent call last):\n  ...\nValueError: x\n"
_COMPLAINT = "Error: Wrong value of 'seed'\n"


def _outcome(exit_code: int | None, stderr: str = "", stdout: str = "") -> Outcome:
    return Outcome(exit_code, stdout, stderr, 1.0)


@pytest.mark.slow
def test_small_share_is_clean(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code = main(["--small"])
    assert exit_code == 0, capsys.readouterr().out


def test_the_copy_is_what_runs_beside_a_package_of_the_same_name(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    (tmp_path / "other/tests").mkdir(parents=True)
    (tmp_path / "other/tests/__init__.py").touch()
    found = "import importlib.util as u; print(u.find_spec('tests.chaos.server').origin)"
    ended = subprocess.run(
        [sys.executable, "-c", found],
        cwd=tree,
        env={"PYTHONPATH": str(tmp_path / "other")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == str(tree / "tests/chaos/server.py")


@pytest.mark.parametrize(
    ("outcome", "found", "expected"),
    [
        (_outcome(0), "a", Kind.RIGHT),
        (_outcome(0, "'/x/card.json' has been altered; not used\n"), "a", Kind.REBUILT),
        (_outcome(2, _COMPLAINT), None, Kind.REFUSED),
        (_outcome(0), "b", Kind.SILENT),
        (_outcome(0), None, Kind.SILENT),
        (_outcome(0, "'/x/card.json' has been altered; not used\n"), "b", Kind.SILENT),
        (_outcome(1, _TRACEBACK), None, Kind.TRACEBACK),
        (_outcome(0, _TRACEBACK), "a", Kind.TRACEBACK),
        (_outcome(1, "Error: Unexpected KeyError: 'x'\n"), None, Kind.TRACEBACK),
        (_outcome(None), "a", Kind.HANG),
        (_outcome(1, _COMPLAINT), None, Kind.OTHER),
        (_outcome(2, _COMPLAINT + _COMPLAINT), None, Kind.OTHER),
        (_outcome(2), None, Kind.OTHER),
        (_outcome(-signal.SIGSEGV), None, Kind.OTHER),
    ],
)
def test_judge_tells_outcomes_apart(outcome: Outcome, found: str | None, expected: Kind) -> None:
    assert judge(outcome, found, "a", named="/x").kind is expected


def test_right_result_may_need_a_line() -> None:
    assert judge(_outcome(0), "a", "a", needs_line=True).kind is Kind.OTHER


def test_refusal_is_no_success() -> None:
    assert judge_refusal(_outcome(0)).kind is Kind.OTHER
    refused = judge(_outcome(2, _COMPLAINT), None, "a", may_refuse=False)
    assert refused.kind is Kind.OTHER


def test_stop_needs_exit_code_and_one_line() -> None:
    line = "Error: Stopped by SIGTERM; the same command goes on from what is saved\n"
    assert judge_stop(_outcome(143, line), signal.SIGTERM) is None
    for wrong in (_outcome(1, line), _outcome(143), _outcome(143, line * 2)):
        verdict = judge_stop(wrong, signal.SIGTERM)
        assert verdict is not None
        assert verdict.kind is Kind.OTHER


def test_leftovers_are_found(tmp_path: Path) -> None:
    (tmp_path / "run" / "state").mkdir(parents=True)
    (tmp_path / "run" / ".12-0123abcd-summary.json").touch()
    (tmp_path / "run" / "summary.json").touch()
    names = [Path(found).name for found in leftovers(tmp_path)]
    assert names == [".12-0123abcd-summary.json", "state"]


class _NoLab:
    """What cases of fake outcomes need of a lab."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder


def test_failures_are_reported_with_the_way_to_repeat_them(tmp_path: Path) -> None:
    def hang(lab: Lab, folder: Path, rng: Random) -> Verdict:
        return Verdict(Kind.HANG, "no end", "last words")

    def broken(lab: Lab, folder: Path, rng: Random) -> Verdict:
        raise ValueError("of the harness")

    lines: list[str] = []
    row = run_part(
        _NoLab(tmp_path),  # type: ignore[arg-type]
        "fake",
        [Case("it hangs", hang), Case("it is broken", broken)],
        [0, 1],
        seed=3,
        jobs=1,
        report=lines.append,
    )
    assert [shown.verdict.kind for shown in row.failures] == [Kind.HANG, Kind.OTHER]
    assert "--only fake --case 0 --seed 3" in lines[0]
    assert "last words" in lines[0]
    assert table([row]).splitlines()[-1].split("|")[2].strip() == "2"
