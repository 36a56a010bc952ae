import subprocess
import sys

import pytest
from omegaconf.errors import InterpolationResolutionError

from src import complaint
from src.common import package
from src.common.errors import RankError, UserError
from src.common.signals import Interrupted


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (UserError("What\n  happened"), 2),
        (FloatingPointError("What happened"), 1),
        (InterpolationResolutionError("What happened"), 2),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_an_exit_code(
    error: Exception, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise error
    assert caught.value.code == exit_code
    assert capsys.readouterr() == ("", "Error: What happened\n")


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        (Interrupted(15), 143, "Stopped by SIGTERM; the same command goes on from what is saved"),
        (Interrupted(2), 130, "Stopped by SIGINT; the same command goes on from what is saved"),
        (RankError(1, -9), 1, "Rank 1 was killed by SIGKILL; the same command goes on"),
        (OSError(28, "No space left on device", "/x/y"), 2, "Cannot use '/x/y' (No space left on"),
        (OSError(28, "No space left on device"), 2, "Cannot use a file of the run (No space left"),
        (MemoryError("1 TB"), 1, "Out of memory (1 TB); lower the batch sizes"),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), 1, "Out of memory ("),
    ],
)
def test_every_way_to_stop_has_its_line_and_its_exit_code(
    error: BaseException, exit_code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise error
    assert caught.value.code == exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"Error: {line}")
    assert said.count("\n") == 1


def test_a_mistake_whose_traceback_is_kept_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    mistake = KeyError("name")
    mistake.add_note("traceback in '/x/traceback.txt'")
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise mistake
    assert caught.value.code == 1
    expected = "Error: Unexpected KeyError: 'name' (traceback in '/x/traceback.txt')\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("Bad luck", "[rank 1] Error: Unexpected RuntimeError: Bad luck\n"),
        ("[gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer", ""),
    ],
)
def test_a_rank_says_what_is_wrong_with_itself_only(
    message: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(complaint, "_PATIENCE", 0)
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise RuntimeError(message)
    assert caught.value.code == 1
    assert capsys.readouterr().err == said


PRINTING = """
import sys
from src import complaint
with complaint.complaints():
    sys.stdin.readline()  # until nobody reads any longer
    print("unread", flush=True)
"""


def test_output_that_nobody_reads_ends_the_program_without_a_word() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PRINTING],
        cwd=package.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


def test_a_pipe_that_breaks_elsewhere_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise BrokenPipeError(32, "Broken pipe", "/x/socket")
    assert caught.value.code == 2
    assert "'/x/socket' (Broken pipe)" in capsys.readouterr().err


def test_a_mistake_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), complaint.complaints():
        raise KeyError
    assert capsys.readouterr() == ("", "")


def test_what_is_said_further_out_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError), complaint.complaints(passing=UserError):
        raise UserError("refused")
    assert capsys.readouterr() == ("", "")
    with pytest.raises(SystemExit), complaint.complaints(passing=UserError):
        raise OSError(28, "No space left on device")


def test_a_failed_rank_has_said_why_and_is_only_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise RankError(1, 2)
    assert caught.value.code == 2
    assert "Rank 1 failed with exit code 2" in capsys.readouterr().err


def test_a_rank_says_which_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    assert complaint.complain("What happened", 2) == 2
    assert capsys.readouterr().err == "[rank 1] Error: What happened\n"


def test_a_header_that_hydra_cannot_read_is_no_mistake_of_ours(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise ValueError("Too many components in '@package a b'")
    assert caught.value.code == 2
    assert "Error: Wrong header of a configuration file" in capsys.readouterr().err
    with pytest.raises(ValueError, match="Too many"), complaint.complaints():
        raise ValueError("Too many cooks")


def test_a_point_that_a_launcher_has_lost_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lost = type("UncompletedJobError", (RuntimeError,), {"__module__": "submitit.core.utils"})
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise lost("Job 7_0 has no result\n(state: FAILED)\nError stream:\nmany\nlines")
    assert caught.value.code == 1
    assert capsys.readouterr().err == (
        "Error: The launcher lost a point of the sweep (Job 7_0 has no result (state: FAILED)); "
        "the same command goes on\n"
    )


def test_a_search_that_found_nothing_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, complaint.complaints():
        raise ValueError("No trials are completed yet.")
    assert caught.value.code == 1
    assert capsys.readouterr().err == (
        "Error: No point of the search has ended with a value; each has said why\n"
    )
