from pathlib import Path

import pytest

from src.common.errors import UserError
from src.common.package import CONF
from src.config import points
from src.config.option_files import names_in


@pytest.mark.parametrize("group", ["kdci", "dataset", "budget", "kdci/adjustment", "recipe"])
def test_options_of_any_group_may_be_chosen_by_a_pattern(group: str) -> None:
    names = ",".join(names_in([CONF / group]))
    assert points.without_patterns([f"{group}=glob(*)"]) == [f"{group}={names}"]
    with pytest.raises(UserError, match=r"'.*= ?glob\(zz\*\)' fits no option \(one of: "):
        points.without_patterns([f"{group}= glob(zz*)"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("dataset@pool=glob([photo*,folder*])", "dataset@pool=folder_pool,photo_patches"),
        ("+experiments=glob(table_c*)", "+experiments=table_cifar10,table_cifar100"),
        ("teacher=glob([base,vgg8])", "teacher=vgg8"),  # on which the others are built
        ("kdci=glob(*, exclude=[*r*, *g])", "kdci=none"),
        ("hydra.job.name='a=glob(x)'", "hydra.job.name='a=glob(x)'"),
        ("paths.outputs=glob", "paths.outputs=glob"),
    ],
)
def test_what_a_pattern_fits_stands_in_its_place(typed: str, meant: str) -> None:
    assert points.without_patterns(["-m", typed, "seed=1,2"]) == ["-m", meant, "seed=1,2"]


def test_a_pattern_fits_options_of_all_folders(tmp_path: Path) -> None:
    for name in ("kdci/zz", "experiments/zz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.yaml").touch()
    for argument in ("kdci", "experiments"):
        assert points.without_patterns([f"{argument}=glob(zz*)"], [tmp_path]) == [f"{argument}=zz"]


@pytest.mark.parametrize("key", ["seed", "kdci.N", "kdci/zz", "hydra/job_logging"])
def test_a_pattern_is_of_the_options_of_a_group(key: str) -> None:
    with pytest.raises(UserError, match="fits no option, since no such group is ours"):
        points.without_patterns([f"{key}=glob(*)"])


def test_a_pattern_is_refused_where_it_cannot_be_looked_for() -> None:
    with pytest.raises(UserError, match=r"within 'kdci=none,glob\(b\*\)'; list the values"):
        points.without_patterns(["kdci=none,glob(b*)"])
    for pattern in ("*", "zz*"):
        with pytest.raises(UserError, match=r"'kdci=glob\(.*\)' with --config-path; list the"):
            points.without_patterns(["--config-path=/x", f"kdci=glob({pattern})"])


@pytest.mark.parametrize(
    "pattern", ["sort(glob(*))", "shuffle(glob(b*))", "choice(glob(*), none)"]
)
def test_a_pattern_within_another_word_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match=r"Cannot use a pattern within 'kdci=.*'; list the values"):
        points.without_patterns([f"kdci={pattern}"])


def test_a_pattern_needs_a_sweep() -> None:
    points.refuse_patterns(["kdci=none", "seed=range(3)", "a='glob(*)'", "-x"])
    with pytest.raises(UserError, match=r"Expected one option in 'kdci=glob\(n\*\)', but"):
        points.refuse_patterns(["seed=1", "kdci=glob(n*)"])


def test_only_what_has_values_is_a_sweep() -> None:
    some = ["seed=0,1", "seed=range(3)", "a=interval(0,1)", "kdci=choice(none)", "-m", "a=", "a=1"]
    points.refuse_unfit_points(some, ["lr=range(1, 3)"])
    some += ["seed=range(-1, 1)", "seed=range(1000000000000)", "a=range(0, 0.5, 0.1)"]
    for none in ("range(0)", "range(2, 1)", "shuffle(range(0, 0))", "range(0, 3, 0)"):
        for typed, listed in (([*some, f"seed={none}"], []), (some, [f"seed={none}"])):
            with pytest.raises(UserError, match="Expected values in the range 'seed="):
                points.refuse_unfit_points(typed, listed)


@pytest.mark.parametrize("ends", ["0, inf", "-inf, 0", "0, 1, inf", "nan, 1"])
def test_a_range_without_end_is_refused(ends: str) -> None:
    with pytest.raises(UserError, match="Expected finite numbers in the range 'seed="):
        points.refuse_unfit_points([f"seed=range({ends})"], [])


@pytest.mark.parametrize("key", ["setting", "experiments", "plugins"])
def test_what_is_chosen_before_points_are_known_is_typed(key: str) -> None:
    points.refuse_unfit_points([f"{key}=a,b"], ["kdci=none,backdoor"])
    with pytest.raises(UserError, match=f"expected it on the command line, {key}=a,b$"):
        points.refuse_unfit_points([], [f"{key}=a,b"])


def test_points_share_their_outputs() -> None:
    points.refuse_unfit_points(["paths.outputs='a,b'", "paths.cache=a,b"], [])
    with pytest.raises(UserError, match=r"one paths\.outputs for all points, but got 'paths\.o"):
        points.refuse_unfit_points(["paths.outputs=a,b"], [])


def test_values_of_a_key_are_given_once() -> None:
    points.refuse_contradictions(
        ["-m", "seed=1", "seed=2", "kdci=none,backdoor", "~a.b", "+a.b=1"]
    )
    for twice in (["seed=0,1", "seed=2"], ["seed=2", "+seed=range(3)"], ["experiments=a"] * 2):
        with pytest.raises(UserError, match=r"once in a sweep, as in '.*', but it is given 2"):
            points.refuse_contradictions(["kdci=none", *twice])
