from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from src.baseline.deepinv import DeepInv
from src.common.errors import UserError
from src.config.check import check
from src.config.node import build
from src.config.schema import RunConfig
from src.kdci.adjustment import Adjustment
from src.pipeline.identify import identify
from src.pipeline.job import Job
from src.pipeline.refusals import refuse_misfit, refuse_unfit_networks
from src.pipeline.share import of_a_rank
from src.substitution.contract import Extent
from tests.compose import plain

SHARED = ("budget=smoke", "baseline.protocol=shared_batch", "baseline.batch_size=32")
ONLINE = (*SHARED, "substitution.mode=online")


def misfit(*overrides: str) -> str | None:
    """What is refused before an image is decoded."""
    return misfit_of(check(plain(*overrides)))


def misfit_of(config: RunConfig) -> str | None:
    try:
        refuse_misfit(config)
    except UserError as error:
        return str(error)
    return None


def test_a_student_that_shares_a_batch_gets_no_more_images_than_that() -> None:
    assert misfit(*ONLINE, "distill.batch_size=64") == (
        "Expected distill.batch_size <= 32 with substitution.mode=online, since DAFL shows its "
        "student the batch of a round, but got 64; give distill.batch_size=32, or "
        "baseline.batch_size=64"
    )
    assert misfit(*ONLINE, "distill.batch_size=64", "baseline.batch_size=64") is None
    assert misfit(*ONLINE, "distill.batch_size=32") is None


@pytest.mark.parametrize(
    "change",
    ["baseline.protocol=fresh_batch", "substitution.mode=replay", "task=teacher", "baseline=dfq"],
)
def test_where_no_batch_is_shared_any_size_does(change: str) -> None:
    given = ONLINE if change != "baseline=dfq" else ("budget=smoke", "substitution.mode=online")
    assert misfit(*given, "distill.batch_size=64", change) is None


@pytest.mark.parametrize("dim", [10, 11])
def test_a_pca_that_does_not_reduce_logits_is_refused_before_there_are_any(dim: int) -> None:
    said = str(misfit("budget=smoke", f"kdci.dictionary.pca_dim={dim}"))
    assert f"below the width 10 of the predictions, but got {dim}" in said


@pytest.mark.parametrize("kdci", ["kdci.dictionary.space=features", "kdci=none"])
def test_a_pca_of_something_else_is_let_pass(kdci: str) -> None:
    assert misfit("budget=smoke", "kdci.dictionary.pca_dim=9") is None
    assert misfit("budget=smoke", "kdci.dictionary.pca_dim=null") is None
    own = "kdci=weighting" if "features" in kdci else "kdci=backdoor"
    assert misfit("budget=smoke", own, "kdci.dictionary.pca_dim=10", kdci) is None


class Own(DeepInv):
    """Has a batch size by default."""

    def __init__(self, *, batch_size: int = 8, **options: Any) -> None:
        super().__init__(batch_size=batch_size, **options)


class Fixed(DeepInv):
    """Has one batch size."""

    def __init__(self, **options: Any) -> None:
        super().__init__(batch_size=8, **options)


class Copying(Fixed):
    """Asks its base with an option that is its own."""

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        return super().most_recorded({**options, "half_steps": 0}, extent)


@pytest.mark.parametrize(
    ("method", "said"), [(Own, "but got 9 > 8 by"), (Fixed, "None"), (Copying, "None")]
)
def test_options_that_a_subclass_gives_itself_are_known_or_left_open(
    method: type[DeepInv], said: str
) -> None:
    config = check(plain("budget=smoke", "baseline=deepinv", "substitution.rounds=1", "kdci.N=9"))
    node = {key: value for key, value in config.baseline.items() if key != "batch_size"}
    node["_target_"] = f"{__name__}.{method.__name__}"
    assert said in str(misfit_of(config.model_copy(update={"baseline": node})))


class Sized(DeepInv):
    """Looks up a word that it may not know."""

    def __init__(self, *, size: str, **options: Any) -> None:
        super().__init__(batch_size={"small": 8}[size], **options)

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        return {"the rounds": {"small": 8}[options["size"]]}


def test_a_method_s_own_fault_is_not_taken_for_an_option_that_it_lacks() -> None:
    config = check(plain("budget=smoke", "baseline=deepinv", "substitution.rounds=1", "kdci.N=9"))
    node = {key: value for key, value in config.baseline.items() if key != "batch_size"}
    node |= {"_target_": f"{__name__}.Sized", "size": "small"}
    assert "but got 9 > 8 by" in str(misfit_of(config.model_copy(update={"baseline": node})))
    with pytest.raises(KeyError, match="large"):
        misfit_of(config.model_copy(update={"baseline": node | {"size": "large"}}))


class Surest(Adjustment):
    """Adjusts the five largest logits by the five largest priors."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits + logits.topk(5).values.sum() + self.prior.topk(5).values.sum()


@pytest.mark.parametrize(
    ("number", "said"), [(5, "None"), (4, "Cannot build 'kdci.adjustment' (tests.pipeline.")]
)
def test_an_adjustment_is_tried_on_the_classes_and_prototypes_of_the_run(
    number: int, said: str
) -> None:
    config = check(plain("budget=smoke", "kdci=prior", f"kdci.N={number}"))
    assert config.kdci is not None
    kdci = config.kdci.model_copy(update={"adjustment": {"_target_": f"{__name__}.Surest"}})
    assert said in str(misfit_of(config.model_copy(update={"kdci": kdci})))


def unfit(tmp_path: Path, *overrides: str) -> str | None:
    """What is refused of networks that are built without memory."""
    paths = [f"paths.{name}={tmp_path / name}" for name in ("outputs", "cache")]
    config, cpu = check(plain("budget=smoke", *paths, *overrides)), torch.device("cpu")
    dataset, identity = build(config.dataset), identify(config, cpu)
    try:
        refuse_unfit_networks(Job(of_a_rank(config), tmp_path, dataset, cpu, identity))
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("teacher", ["convnet_s", "resnet18"])
def test_a_pca_as_wide_as_the_teacher_s_features_is_refused(teacher: str, tmp_path: Path) -> None:
    given = (f"teacher={teacher}", "kdci.dictionary.space=features", "kdci=weighting")
    config = check(plain("budget=smoke", *given))
    width = build(config.teacher.network, num_classes=10).feature_dim
    assert unfit(tmp_path, *given, f"kdci.dictionary.pca_dim={width}") == (
        f"Expected kdci.dictionary.pca_dim to be below the width {width} of the predictions, but "
        f"got {width}; null turns PCA off"
    )
    for let_pass in (
        [f"kdci.dictionary.pca_dim={width - 1}"],
        ["kdci.dictionary.pca_dim=null"],
        [
            f"kdci.dictionary.pca_dim={width}",
            "kdci.dictionary.space=logits",
        ],  # another's to refuse
        [f"kdci.dictionary.pca_dim={width}", "task=teacher"],
    ):
        assert unfit(tmp_path, *given, *let_pass) is None


@pytest.mark.parametrize("kdci", ["kdci=none", "kdci=weighting"])
def test_a_pool_of_more_images_than_there_are_is_refused_before_the_teacher(kdci: str) -> None:
    given = ("budget=smoke", "baseline=dfnd", "dataset@pool=controlled", kdci)
    assert misfit(*given, "pool.num_images=300") is None
    assert "but got 60000 > " in str(misfit(*given, "pool.num_images=60000"))
    assert misfit(*given, "pool.num_images=60000", "baseline=dafl") is None  # nobody reads it


OPTIONS_OF_LOGITS = {
    "attention": "cosine",
    "projection": "identity",
    "expectation": "arithmetic",
}


@pytest.mark.parametrize(("key", "value"), OPTIONS_OF_LOGITS.items())
def test_what_needs_logits_is_refused_in_feature_space(key: str, value: str) -> None:
    said = misfit("kdci.dictionary.space=features", f"kdci.adjustment.{key}={value}")
    expected = f"kdci.dictionary.space=logits with kdci.adjustment.{key}={value}, but got 'f"
    assert expected in str(said)
