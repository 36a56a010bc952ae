from pathlib import Path

import pytest
import torch

from src.common.errors import UserError
from src.config.check import check
from src.config.node import build
from src.pipeline.identify import identify
from src.pipeline.job import Job
from src.pipeline.refusals import refuse_misfit, refuse_unfit_networks
from src.pipeline.share import of_a_rank
from tests.compose import plain

SHARED = ("budget=smoke", "baseline.protocol=shared_batch", "baseline.batch_size=32")
ONLINE = (*SHARED, "substitution.mode=online")
TWO_RANKS = "trainer=ddp_cpu"


def misfit(*overrides: str) -> str | None:
    """What is refused before an image is decoded."""
    try:
        refuse_misfit(check(plain(*overrides)))
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
    given = ("budget=smoke", *ONLINE[1:]) if change != "baseline=dfq" else ("budget=smoke",)
    assert misfit(*given, "distill.batch_size=64", change) is None


def test_batches_are_shared_rank_by_rank() -> None:
    assert misfit(*ONLINE, TWO_RANKS, "distill.batch_size=32") is None
    assert "give distill.batch_size=32" in str(misfit(*ONLINE, TWO_RANKS, "distill.batch_size=34"))


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
