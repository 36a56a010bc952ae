import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.common.errors import UserError, nearest
from src.schema import check
from tests.compose import plain


def changed(**values: Any) -> dict[str, Any]:
    """The default configuration with other values, by dotted key with ``__`` for the dots."""
    config = copy.deepcopy(plain())
    for key, value in values.items():
        *parents, last = key.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return config


def complaint(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        check(config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_default_is_valid() -> None:
    config = check(plain())
    assert (config.seed, config.substitution.mode) == (0, "replay")
    assert config.kdci is not None
    assert config.kdci.attention == "additive"


@pytest.mark.parametrize(
    "overrides",
    [
        ("kdci=none", "kdci.N=8"),
        ("trainer=ddp",),
        ("trainer=ddp_cpu",),
        ("logger=wandb",),
        ("budget=smoke", "baseline=dfnd"),
        ("budget=paper",),
        ("kdci.attention=cosine", "kdci.projection=identity", "kdci.expectation=arithmetic"),
        ("substitution.mode=online", "kdci.refresh_every=5"),
        ("distill.scheduler=null",),
    ],
    ids=" ".join,
)
def test_documented_options_are_valid(overrides: tuple[str, ...]) -> None:
    check(plain(*overrides))


def test_without_compensation_nothing_of_it_is_left() -> None:
    assert check(plain("kdci=none", "kdci.N=8")).kdci is None


def test_a_checked_configuration_cannot_be_changed() -> None:
    config: Any = check(plain())
    with pytest.raises(Exception, match="frozen"):
        config.seed = 1


WRONG_VALUES: list[tuple[str, Any]] = [
    ("kdci__N", 0),
    ("kdci__N", -3),
    ("kdci__N", 2.5),
    ("kdci__N", "many"),
    ("kdci__N", True),
    ("kdci__N", None),
    ("kdci__attention", "nearest"),
    ("kdci__strength", -0.1),
    ("kdci__strength", "strong"),
    ("kdci__renormalise", "yes"),
    ("substitution__mode", "live"),
    ("substitution__record_from", 1.5),
    ("substitution__rounds", 0),
    ("distill__batch_size", 32.0),
    ("distill__optimizer", None),
    ("teacher__expected_acc1", 101),
    ("teacher__fit__schedule", "step"),
    ("trainer__devices", 0),
    ("trainer__precision", "16-mixed"),
    ("seed", -1),
    ("budget", "tiny"),
    ("paths__cache", None),
    ("logger__wandb", "offline"),
    ("baseline__batch_size", "big"),
    ("baseline__batch_size", 32.5),
    ("baseline__protocol", "third"),
    ("baseline__one_hot_weight", "heavy"),
    ("baseline__generator__latent_dim", "wide"),
    ("student__network__widths", "wide"),
    ("student__network__widths", ["wide"]),
]


@pytest.mark.parametrize(("key", "value"), WRONG_VALUES)
def test_a_wrong_value_is_named_with_its_key(key: str, value: Any) -> None:
    message = complaint(changed(**{key: value}))
    assert f"'{key.replace('__', '.')}" in message
    shown = value[0] if isinstance(value, list) else value
    assert f"but got {shown!r}" in message


def test_what_is_allowed_is_said() -> None:
    message = complaint(changed(kdci__attention="nearest"))
    assert "'additive', 'dot', 'cosine', 'uniform' or 'random'" in message
    assert "greater than 0" in complaint(changed(kdci__N=0))
    assert "less than or equal to 1" in complaint(changed(substitution__record_from=1.5))


@pytest.mark.parametrize(
    ("key", "nearest_name"),
    [
        ("distil", "distill"),
        ("kdci__n_prototypes", "prototypes"),
        ("kdci__attention_dims", "attention_dim"),
        ("substitution__round", "rounds"),
        ("distill__steps_per_epochs", "steps_per_epoch"),
        ("teacher__fit__epoch", "epochs"),
        ("teacher__chekpoint", "checkpoint"),
        ("baseline__one_hot_wieght", "one_hot_weight"),
        ("baseline__generator__latent", "latent_dim"),
        ("dataset__rooot", None),
        ("student__network__width", "widths"),
        ("distill__optimizer__momentun", "momentum"),
        ("distill__scheduler__T_maxx", "T_max"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(key: str, nearest_name: str | None) -> None:
    message = complaint(changed(**{key: 1}))
    assert message.startswith(f"Unknown configuration key '{key.replace('__', '.')}'")
    assert ("did you mean" in message) == (nearest_name is not None)
    if nearest_name:
        assert f"did you mean '{nearest_name}'?" in message


@pytest.mark.parametrize("key", ["seed", "kdci.N", "teacher.fit.epochs", "baseline.batch_size"])
def test_a_missing_key_is_named(key: str) -> None:
    config = changed()
    *parents, last = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    del node[last]
    assert complaint(config) == f"Missing configuration key '{key}'"


OPTIONS_OF_LOGITS = {
    "attention": "cosine",
    "projection": "identity",
    "expectation": "arithmetic",
}


@pytest.mark.parametrize(("key", "value"), OPTIONS_OF_LOGITS.items())
def test_what_needs_logits_is_refused_in_feature_space(key: str, value: str) -> None:
    message = complaint(changed(kdci__space="features", **{f"kdci__{key}": value}))
    assert f"kdci.{key}={value} needs kdci.space=logits, but got 'features'" in message


def test_rebuilding_the_dictionary_needs_new_images() -> None:
    message = complaint(changed(kdci__refresh_every=3))
    assert "kdci.refresh_every needs substitution.mode=online" in message


HOSTILE = ["os.system", "subprocess.Popen", "builtins.eval", "torch.hub.load", "srcx.y.Z", "", 3]


@pytest.mark.parametrize("target", HOSTILE)
@pytest.mark.parametrize(
    "node",
    [
        "dataset",
        "pool",
        "baseline",
        "baseline__generator",
        "baseline__optimizer",
        "teacher__network",
        "teacher__fit__optimizer",
        "student__network",
        "distill__optimizer",
        "distill__scheduler",
    ],
)
def test_a_foreign_target_is_refused(node: str, target: Any) -> None:
    message = complaint(changed(**{f"{node}___target_": target}))
    assert message.startswith(f"Refused '{node.replace('__', '.')}._target_={target}'")


def evil(trace: Path) -> dict[str, Any]:
    return {"_target_": "os.mkdir", "_args_": [str(trace)]}


@pytest.mark.parametrize(
    "hide",
    [
        lambda node: node,
        lambda node: [node],
        lambda node: {"deep": {"deeper": node}},
        lambda node: [[{"deep": node}]],
    ],
)
@pytest.mark.parametrize("place", ["distill__optimizer__lr", "distill__optimizer___args_"])
def test_a_foreign_target_is_found_wherever_it_hides(
    place: str, hide: Callable[[Any], Any], tmp_path: Path
) -> None:
    message = complaint(changed(**{place: hide(evil(tmp_path / "trace"))}))
    assert "_target_=os.mkdir'" in message
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("src.baseline.nowhere.DAFL", "Cannot find"),
        ("src.baseline.dafl.Nothing", "Cannot find"),
        ("src.common.files.sha256_file", "expected a class"),
        ("src.launch.run_point", "expected a class"),
    ],
)
def test_a_target_of_ours_must_be_a_class(target: str, why: str) -> None:
    message = complaint(changed(baseline___target_=target))
    assert why in message
    assert target in message


@pytest.mark.parametrize("key", ["teacher", "optimizer", "generator"])
def test_an_object_cannot_be_a_plain_value(key: str) -> None:
    message = complaint(changed(**{f"baseline__{key}": "mine"}))
    assert message.startswith(f"Wrong value of 'baseline.{key}': expected")
    assert message.endswith("but got 'mine'")


def test_the_nearest_name_is_only_named_when_it_is_near() -> None:
    assert nearest("round", ["rounds", "mode"]) == "; did you mean 'rounds'?"
    assert nearest("xyz", ["rounds", "mode"]) == ""


def test_a_value_of_several_kinds_is_told_of_all() -> None:
    rule = r"'baseline.num_select': expected a valid integer or less than 1, but got 1\.5"
    with pytest.raises(UserError, match=rule):
        check(plain("baseline=dfnd", "baseline.num_select=1.5"))
