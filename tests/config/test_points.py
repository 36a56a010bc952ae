import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from src.common.errors import UserError
from src.common.package import CONF
from src.config import points
from src.config.option_files import names_in
from tests.config.test_composition import HEADER, folder

__all__ = ["folder"]  # a fixture


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
    some += ["seed=range(-1, 1)", "seed=range(1000000000000)", "a=range(0, 0.5, 0.1)"]
    points.refuse_unfit_points([*some, "lr=range(1, 3)", f"seed=range(1{'0' * 400})"])
    for none in ("range(0)", "range(2, 1)", "shuffle(range(0, 0))", "range(0, 3, 0)"):
        with pytest.raises(UserError, match="Expected values in the range 'seed="):
            points.refuse_unfit_points([*some, f"seed={none}"])


@pytest.mark.parametrize("ends", ["0, inf", "-inf, 0", "0, 1, inf", "nan, 1"])
def test_a_range_without_end_is_refused(ends: str) -> None:
    with pytest.raises(UserError, match="Expected finite numbers in the range 'seed="):
        points.refuse_unfit_points([f"seed=range({ends})"])


def test_points_of_a_file_give_way_to_typed_ones() -> None:
    params = {"seed": "0,1", "+a.b": [1, 2], "kdci": "none"}
    for typed in (["seed=3", "x=1"], ["+a.b=3", "kdci=none,backdoor", "seed=1"]):
        points.refuse_unfit_params(params, typed)
    assert points.listed(params, ["seed=3", "x=1"]) == ["+a.b=[1, 2]", "kdci=none"]
    assert points.listed(params, ["a.b=3", "kdci=none,backdoor", "++seed=1"]) == []
    assert points.listed(None, []) == []
    for wrong, key in (("++seed=0", "seed"), ("a.b=3,4", "+a.b")):
        expected = f"Expected '{key}=...' as in hydra.sweeper.params, whose values"
        with pytest.raises(UserError, match=re.escape(expected)):
            points.refuse_unfit_params(params, [wrong])


@pytest.mark.parametrize("key", ["setting", "experiments", "plugins", "setting@_global_"])
def test_what_is_chosen_before_points_are_known_is_typed(key: str) -> None:
    points.refuse_unfit_params({key: "a,b"}, [f"{key}=a"])
    with pytest.raises(UserError, match=f"expected it on the command line, {key}=a,b$"):
        points.refuse_unfit_params({key: "a,b"}, [])


def test_points_share_their_outputs() -> None:
    points.refuse_unfit_points(["paths.outputs='a,b'", "paths.cache=a,b"])
    with pytest.raises(UserError, match=r"one paths\.outputs for all points, but got 'paths\.o"):
        points.refuse_unfit_points(["paths.outputs=a,b"])


@pytest.fixture
def point(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """Composes a point of a sweep over small options, as Hydra's sweepers do."""
    name = "load_sweep_config"
    unguarded = getattr(ConfigLoaderImpl, name)
    monkeypatch.setattr(ConfigLoaderImpl, name, unguarded)
    for _ in range(2):  # as where the program is imported twice
        points.guard_hydra()
        guarded: Any = ConfigLoaderImpl.load_sweep_config
        assert guarded.unguarded is getattr(unguarded, "unguarded", unguarded)

    def compose_point(*overrides: str, typed: Sequence[str] = ()) -> DictConfig:
        with initialize_config_dir(str(folder / "conf"), version_base="1.3"):
            master = compose("config", [*typed], return_hydra_config=True)
            loader = GlobalHydra.instance().config_loader()
            return loader.load_sweep_config(master, list(overrides))

    return compose_point


POINTS = "hydra: {sweeper: {params: {seed: '0,1', +a: 2}}}\n"


@pytest.mark.parametrize(
    "own",
    [
        POINTS,
        "defaults: [z, _self_]\nseed: 1\n",
        "defaults: [z.yaml]\n",
        "defaults: [z@_here_]\n",
        "defaults: [/experiments/z]\n",
        "defaults: [../experiments/z]\n",
        "defaults:\n- optional /experiments@_global_: [y, z]\n",
        "defaults:\n- override /kdci: z\n",
    ],
)
def test_no_point_of_an_option_is_left_out(
    own: str, folder: Path, point: Callable[..., DictConfig]
) -> None:
    """Hydra would run one in the place of them all, without a word."""
    contents = {"experiments/x": own, "experiments/y": "defaults: [/kdci/none@kdci]\nseed: 2\n"}
    contents |= dict.fromkeys(("experiments/z", "conf/kdci/z"), POINTS)
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(f"{HEADER.decode()}{content}")
    assert point("experiments=y").seed == 2
    assert point("experiments=x", "seed=3", "+a=2", typed=["seed=3", "+a=2"]).seed == 3
    for typed, left in (["seed=3"], "+a=2"), (["+a=2"], "seed=0,1"), ([], "+a=2 seed=0,1"):
        overrides = " ".join(["experiments=x", *typed])
        said = f"'{overrides}' has {left} where the sweep goes through none; give them on the"
        with pytest.raises(UserError, match=re.escape(said)):
            point(*overrides.split(), typed=typed)


def test_all_options_of_a_sweep_have_the_same_points(
    folder: Path, point: Callable[..., DictConfig]
) -> None:
    """The sweep goes through those of the option that it would have without the sweep."""
    for name, seeds in (
        ("x", "+a: 2, seed: '0,1'"),
        ("y", "seed: '5,6'"),
        ("z", "seed: '0,1', +a: 2"),
    ):
        text = f"hydra: {{sweeper: {{params: {{{seeds}}}}}}}\nname: {name}\n"
        (folder / f"conf/kdci/{name}.yaml").write_text(f"{HEADER.decode()}{text}")
    for same in ("x", "z"):
        assert point(f"kdci={same}", "seed=0", "+a=2", typed=["kdci=x"]).seed == 0
    assert point("kdci=none", "seed=3", "+a=1", typed=["kdci=x", "seed=3", "+a=1"]).seed == 3
    for other, has in (("y", "seed=5,6"), ("none", "none")):
        said = f"'kdci={other} seed=0' has {has} where the sweep goes through +a=2 seed=0,1; give"
        with pytest.raises(UserError, match=re.escape(said)):
            point(f"kdci={other}", "seed=0", typed=["kdci=x"])


def test_values_of_a_key_are_given_once() -> None:
    points.refuse_contradictions(
        ["-m", "seed=1", "seed=2", "kdci=none,backdoor", "~a.b", "+a.b=1"]
    )
    for twice in (["seed=0,1", "seed=2"], ["seed=2", "+seed=range(3)"], ["experiments=a"] * 2):
        with pytest.raises(UserError, match=r"once in a sweep, as in '.*', but it is given 2"):
            points.refuse_contradictions(["kdci=none", *twice])
