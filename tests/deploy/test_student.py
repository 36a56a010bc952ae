import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from src.common.errors import UserError
from src.dataset.contract import ImageSpec
from src.dataset.normalisation import Normalisation
from src.deploy.save import save_student
from src.deploy.student import build_network, load_student
from src.network.convnet import ConvNet
from tests.toys import convnet


def card(spec: ImageSpec, **changes: Any) -> dict[str, Any]:
    full = {
        "architecture": {"_target_": "src.network.convnet.ConvNet", "widths": [4, 8]},
        "class_names": [f"class {k}" for k in range(spec.num_classes)],
        "image_size": spec.image_size,
        "shorter_side": None,
        "normalisation": {"mean": spec.mean, "std": spec.std},
        "accuracy": {"acc1": 80.0, "split": "test", "epoch": "last"},
    }
    return full | changes


@pytest.fixture
def network(tiny_spec: ImageSpec) -> ConvNet:
    """With statistics and weights that are not the initial ones."""
    student = convnet(tiny_spec).train()
    student(torch.randn(16, 3, 8, 8))
    student.fc.bias.data.normal_()
    return student


def test_what_is_loaded_predicts_what_was_trained(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet
) -> None:
    save_student(tmp_path / "new", network, card(tiny_spec))
    deployed = load_student(tmp_path / "new")
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    expected = network.eval()(Normalisation.of(tiny_spec).from_uint8(images))
    assert torch.equal(deployed(images), expected)
    torch.testing.assert_close(deployed(images / 255), expected)
    assert not deployed.network.training
    assert deployed.card["class_names"] == ["class 0", "class 1", "class 2", "class 3"]


def test_a_path_can_be_a_string(tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet) -> None:
    save_student(tmp_path, network, card(tiny_spec))
    assert load_student(str(tmp_path)).card["accuracy"]["acc1"] == 80.0


def test_linear_fusion_is_folded_into_the_last_layer(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet
) -> None:
    fuse = torch.randn(4, 4)
    save_student(tmp_path, network, card(tiny_spec), fuse)
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    logits = network.eval()(Normalisation.of(tiny_spec).from_uint8(images))
    torch.testing.assert_close(load_student(tmp_path)(images), logits @ fuse.T)


def test_the_trained_student_is_not_changed(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    save_student(tmp_path, network, card(tiny_spec), torch.randn(4, 4))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert network.training


def test_only_the_plain_network_is_written(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet
) -> None:
    save_student(tmp_path, network, card(tiny_spec))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"student.safetensors", "student.json"}
    assert load_file(tmp_path / "student.safetensors").keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "src.deploy.student.load_student",
        "src.network.convnet.nn.Conv2d",
        "src.network.convnet.pairwise",
        "src.network.classifier.Tensor",
        "src.network.generator.Generator",
        "src.network.nowhere.ConvNet",
        "src.network.convnet.Nothing",
        "src.network.",
        "ConvNet",
        "",
        None,
        7,
    ],
)
def test_a_card_must_not_choose_what_runs(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet, target: Any
) -> None:
    hostile = card(tiny_spec, architecture={"_target_": target, "command": "touch x"})
    save_student(tmp_path, network, hostile)
    with pytest.raises(UserError, match="Cannot use the student in") as caught:
        load_student(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_abstract_classifier_is_no_architecture() -> None:
    with pytest.raises((UserError, TypeError)):
        build_network({"_target_": "src.network.classifier.Classifier"}, 4)


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", "{}", '{"architecture": {}}', '{"architecture": []}', "missing"]
)
def test_a_damaged_card_is_refused_by_name(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet, damage: str
) -> None:
    save_student(tmp_path, network, card(tiny_spec))
    if damage == "missing":
        (tmp_path / "student.json").unlink()
    else:
        (tmp_path / "student.json").write_text(damage)
    with pytest.raises(UserError, match=r"student\.json"):
        load_student(tmp_path)


@pytest.mark.parametrize("position", [0, 8, 100, 500, -7])
def test_damaged_weights_are_refused_by_name(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet, position: int
) -> None:
    save_student(tmp_path, network, card(tiny_spec))
    path = tmp_path / "student.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"student\.safetensors' has been altered"):
        load_student(tmp_path)


def test_an_edited_card_is_refused_by_name(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet
) -> None:
    save_student(tmp_path, network, card(tiny_spec))
    path = tmp_path / "student.json"
    path.write_text(path.read_text().replace("80.0", "90.0"))
    with pytest.raises(UserError, match=r"student\.json' has been altered"):
        load_student(tmp_path)


def test_a_card_without_statistics_is_refused_by_name(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet
) -> None:
    incomplete = card(tiny_spec)
    del incomplete["normalisation"]
    save_student(tmp_path, network, incomplete)
    with pytest.raises(UserError, match="Cannot use the student in"):
        load_student(tmp_path)


def test_the_card_is_plain_json(tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet) -> None:
    written = card(tiny_spec)
    save_student(tmp_path, network, written)
    stored = json.loads((tmp_path / "student.json").read_text())
    assert stored.keys() - written.keys() == {"checksums", "seal"}
    assert {key: stored[key] for key in written} == json.loads(json.dumps(written))
