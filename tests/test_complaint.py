import pytest
from omegaconf.errors import InterpolationResolutionError

from src import complaint
from src.common.errors import RankError, UserError


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


def test_a_mistake_of_ours_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), complaint.complaints():
        raise KeyError
    assert capsys.readouterr() == ("", "")


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
