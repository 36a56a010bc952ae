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


def test_only_what_has_values_is_a_sweep() -> None:
    some = ["seed=0,1", "seed=range(3)", "a=interval(0,1)", "kdci=choice(none)", "-m", "a=", "a=1"]
    points.refuse_without_points(some)
    some += ["seed=range(-1, 1)", "seed=range(1000000000000)", "a=range(0, 0.5, 0.1)"]
    for none in ("range(0)", "range(2, 1)", "shuffle(range(0, 0))", "range(0, 3, 0)"):
        with pytest.raises(UserError, match="Expected values in the range 'seed="):
            points.refuse_without_points([*some, f"seed={none}"])
