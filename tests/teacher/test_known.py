from pathlib import Path

import pytest
from torchvision.models import (
    MobileNet_V2_Weights,
    ResNet18_Weights,
    ResNet50_Weights,
    WeightsEnum,
)

from src.common.files import sha256_file
from src.common.package import CONF
from src.teacher.known import KnownCheckpoint, known_checkpoints, published, recognise

NETWORKS = {
    "resnet18_imagenet": ResNet18_Weights,
    "resnet50_imagenet": ResNet50_Weights,
    "mobilenetv2_imagenet": MobileNet_V2_Weights,
}


@pytest.mark.parametrize("known", known_checkpoints(), ids=lambda known: known.source)
def test_entries_name_options_that_exist(known: KnownCheckpoint) -> None:
    assert (CONF / "teacher" / f"{known.network}.yaml").exists()
    assert (CONF / "setting" / f"{known.dataset}.yaml").exists()


@pytest.mark.parametrize("network", NETWORKS)
def test_torchvision_says_the_same(network: str) -> None:
    weights: list[WeightsEnum] = list(NETWORKS[network])
    assert weights
    for weight, known in zip(weights, published(network, "imagenet"), strict=True):
        assert known.source == weight.url
        assert weight.url.endswith(f"-{known.sha256}.pth")
        assert known.acc1 == weight.meta["_metrics"]["ImageNet-1K"]["acc@1"]


def test_a_file_is_recognised_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "teacher.pth"
    path.write_bytes(b"weights")
    digest = sha256_file(path)
    nameless = KnownCheckpoint(network="a", dataset="b", acc1=90.0, source="c")
    listed = nameless.model_copy(update={"sha256": digest[:8]})
    monkeypatch.setattr("src.teacher.known.known_checkpoints", lambda: (nameless, listed))
    assert recognise(path) == listed
    path.write_bytes(b"other weights")
    assert recognise(path) is None
    assert recognise(tmp_path / "absent.pth") is None
