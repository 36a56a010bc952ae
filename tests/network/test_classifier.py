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
    assert torch.equal(network.logits(features), logits)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_last_layer_is_float32_under_autocast(path: Path) -> None:
    network = instantiate(OmegaConf.load(path).network, num_classes=7).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        features, logits = network.embed(images), network(images)
    assert features.dtype == torch.bfloat16
    assert torch.equal(logits, network.head(features.float()))


def test_a_network_in_float64_stays_so() -> None:
    network = instantiate(OmegaConf.load(CONFIGS[0]).network, num_classes=7).double().eval()
    assert network(torch.randn(2, 3, 32, 32).double()).dtype == torch.float64


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_parameter_takes_part(path: Path) -> None:
    with torch.device("meta"):
        network = instantiate(OmegaConf.load(path).network, num_classes=7)
        network(torch.empty(2, 3, 32, 32)).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []
