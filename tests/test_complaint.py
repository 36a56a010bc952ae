import pytest
from omegaconf.errors import InterpolationResolutionError

from src import complaint
from src.common.errors import RankError, UserError
from tests.compose import composed


def failure(*overrides: str) -> Exception:
    with pytest.raises(Exception, match=r".") as caught:
        composed(*overrides)
    return caught.value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("kdci=backdor", "Unknown option 'kdci=backdor'; did you mean 'backdoor'? (one of: "),
        ("dataset=cifra10", "Unknown option 'dataset=cifra10'; did you mean 'cifar10'? (one of: "),
        ("student=resnet19", "Unknown option 'student=resnet19'; did you mean 'resnet18'?"),
        ("kdci.n=3", "Unknown configuration key 'kdci.n'; did you mean 'kdci.N'?"),
        ("distil.epochs=3", "Unknown configuration key 'distil.epochs'; did you mean 'distill.ep"),
        ("baseline.batch_szie=3", "'baseline.batch_szie'; did you mean 'baseline.batch_size'?"),
        ("zzzzzz=3", "Unknown configuration key 'zzzzzz'"),
    ],
)
def test_hydra_s_complaints_name_the_nearest(override: str, expected: str) -> None:
    message = complaint.explain(failure(override), [override])
    assert expected in message
    assert "\n" not in message


def test_the_nearest_key_is_sought_in_the_chosen_groups() -> None:
    overrides = ["baseline=dfnd", "baseline.num_slect=3"]
    message = complaint.explain(failure(*overrides), overrides)
    assert message.endswith("did you mean 'baseline.num_select'?")


def test_other_complaints_are_one_line_without_hydra_s_advice() -> None:
    error = ValueError("Something\n  is wrong\nSet the environment variable HYDRA_FULL_ERROR=1")
    assert complaint.explain(error, []) == "Something is wrong"


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("recipe=dafl_cifar", "'recipe=dafl_cifar'; did you mean 'dafl_cifar10'?"),
        ("recipe=dafl_cifar10,nothing", "'recipe=nothing'"),
        ("experiments=nothing", "'experiments=nothing'"),
    ],
)
def test_an_unknown_option_of_an_optional_group_is_refused(argument: str, expected: str) -> None:
    with pytest.raises(UserError, match="Unknown option") as caught:
        complaint.refuse_unknown_options(["seed=1", argument])
    assert expected in str(caught.value)


def test_known_options_and_other_arguments_pass() -> None:
    complaint.refuse_unknown_options(
        ["recipe=dafl_cifar10,dafl_cifar100", "-m", "recipes=x", "a=b"]
    )


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
