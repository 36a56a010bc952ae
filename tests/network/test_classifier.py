"""Every network that conf/student offers keeps the classifier contract."""

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from src.network.classifier import Classifier

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "student").glob("*.yaml"))


def test_configs_are_found() -> None:
    assert {"wrn16_1", "resnet18", "convnet_s"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configured_network_is_a_classifier(path: Path) -> None:
    config = OmegaConf.load(path)
    assert config.name.startswith(path.stem)
    network = instantiate(config.network, num_classes=7).eval()
    assert isinstance(network, Classifier)
    images = torch.randn(2, 3, 32, 32)

    features = network.embed(images)
    logits = network(images)

    assert features.shape == (2, network.feature_dim)
    assert logits.shape == (2, 7)
    assert torch.equal(network.head(features), logits)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_parameter_takes_part(path: Path) -> None:
    with torch.device("meta"):
        network = instantiate(OmegaConf.load(path).network, num_classes=7)
        network(torch.empty(2, 3, 32, 32)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
