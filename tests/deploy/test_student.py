import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from src.common.errors import MissingExtraError, UserError
from src.dataset.contract import ImageSpec
from src.dataset.image_folder import ImageFolder
from src.dataset.normalisation import Normalisation
from src.deploy import student as deployed_student
from src.deploy.save import save_student
from src.deploy.student import DeployedStudent, build_network, load_student
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


def test_it_is_folded_into_a_last_layer_without_a_bias(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet
) -> None:
    network.fc.register_parameter("bias", None)
    fuse = torch.randn(4, 4)
    save_student(tmp_path, network, card(tiny_spec), fuse)
    saved = load_file(tmp_path / "student.safetensors")
    assert "fc.bias" not in saved
    torch.testing.assert_close(saved["fc.weight"], fuse @ network.fc.weight.detach())


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


# What goes in.


@pytest.fixture
def deployed(tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet) -> DeployedStudent:
    save_student(tmp_path / "run", network, card(tiny_spec))
    return load_student(tmp_path / "run")


def test_it_is_in_eval_mode_and_makes_no_gradients(deployed: DeployedStudent) -> None:
    assert not any(module.training for module in deployed.network.modules())
    assert not any(weight.requires_grad for weight in deployed.parameters())
    assert not deployed(torch.rand(2, 3, 8, 8)).requires_grad


@pytest.mark.parametrize(
    ("shape", "cure"),
    [
        ((2, 3, 9, 8), r"\[B, 3, 8, 8\], but got \[2, 3, 9, 8\]; predict\(\) resizes"),
        ((2, 1, 8, 8), r"predict\(\) resizes"),
        ((3, 8, 8), r"but got \[3, 8, 8\]; for one image pass images\[None\]"),
        ((2, 8, 8, 3), r"permute\(0, 3, 1, 2\) puts the channels first"),
        ((8, 8), r"but got \[8, 8\]"),
    ],
)
def test_another_shape_is_answered_with_a_cure(
    deployed: DeployedStudent, shape: tuple[int, ...], cure: str
) -> None:
    with pytest.raises(UserError, match=cure):
        deployed(torch.zeros(shape))


@pytest.mark.parametrize(
    ("value", "cure"),
    [
        (255.0, "but got 0 to 255; divide values of 0..255 by 255"),
        (-0.5, "but got -0.5 to 0; .* do not normalise"),
        (float("inf"), "but got 0 to inf"),
        (float("nan"), "some are NaN"),
    ],
)
def test_another_range_is_answered_with_a_cure(
    deployed: DeployedStudent, value: float, cure: str
) -> None:
    images = torch.zeros(2, 3, 8, 8)
    images[1, 2, 3, 4] = value
    with pytest.raises(UserError, match=cure) as caught:
        deployed(images)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_other_types_are_refused(deployed: DeployedStudent, dtype: torch.dtype) -> None:
    with pytest.raises(UserError, match=f"but got {str(dtype)[6:]}; "):
        deployed(torch.zeros(1, 3, 8, 8, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_any_width_are_taken(deployed: DeployedStudent, dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 8, 8).to(dtype)
    assert torch.equal(deployed(images), deployed(images.float()))


def photograph(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_paths_images_and_arrays_are_the_same_to_it(
    tmp_path: Path, deployed: DeployedStudent
) -> None:
    image = photograph(17, 12)
    image.save(tmp_path / "a.png")
    same = [tmp_path / "a.png", str(tmp_path / "a.png"), image, np.asarray(image)]
    pixels = deployed.pixels(same)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (4, 3, 8, 8)
    for single, each in zip(same, pixels, strict=True):
        assert torch.equal(each, pixels[0])
        assert torch.equal(deployed.pixels(single), pixels[:1])
    expected = deployed(pixels).softmax(dim=1)
    assert torch.equal(deployed.predict(same), expected)
    torch.testing.assert_close(deployed.predict(image).sum(), torch.tensor(1.0))


def test_many_images_are_taken_in_parts(
    deployed: DeployedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [photograph(8 + n, 9) for n in range(5)]
    whole = deployed.predict(images)
    monkeypatch.setattr(deployed_student, "_BATCH", 2)
    torch.testing.assert_close(deployed.predict(images), whole)


@pytest.mark.parametrize("keep_aspect", [True, False])
def test_images_are_prepared_as_the_test_split_was(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet, keep_aspect: bool
) -> None:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / "mine" / split / name
            folder.mkdir(parents=True)
            photograph(30 + 9 * number, 25).save(folder / "1.png")
            photograph(20, 33 + number).convert("L").save(folder / "2.png")
    data = ImageFolder(
        tmp_path / "mine", tmp_path / "cache", image_size=8, keep_aspect=keep_aspect
    )
    save_student(tmp_path, network, card(tiny_spec, shorter_side=data.geometry.shorter_side))
    paths = sorted((tmp_path / "mine" / "test").rglob("*.png"))
    assert torch.equal(load_student(tmp_path).pixels(paths), data.test().images)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (np.zeros((8, 8), np.uint8), r"\[8, 8\] of uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"\[8, 8, 4\] of uint8"),
        (np.zeros((8, 8, 3)), r"\[8, 8, 3\] of float64"),
    ],
)
def test_other_arrays_are_refused(deployed: DeployedStudent, array: Any, got: str) -> None:
    with pytest.raises(UserError, match=rf"array \[H, W, 3\] of uint8, but got {got}"):
        deployed.predict(array)


def test_what_is_no_image_is_named(tmp_path: Path, deployed: DeployedStudent) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    for path in (tmp_path / "a.png", tmp_path / "missing.png", tmp_path):
        with pytest.raises(UserError, match=re.escape(f"Cannot read the image '{path}' (")):
            deployed.predict([path])
    with pytest.raises(UserError, match="at least one image"):
        deployed.predict([])


def test_a_network_of_torchvision_without_it(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = {"_target_": "src.network.imagenet.ResNet18"}
    save_student(tmp_path, network, card(tiny_spec, architecture=target))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "src.network.imagenet", raising=False)
    with pytest.raises(UserError, match="its network is torchvision's: pip install torchvision"):
        load_student(tmp_path)


def test_weights_of_another_network_are_refused(
    tmp_path: Path, tiny_spec: ImageSpec, network: ConvNet
) -> None:
    target = {"_target_": "src.network.convnet.ConvNet", "widths": [4, 9]}
    save_student(tmp_path, network, card(tiny_spec, architecture=target))
    with pytest.raises(UserError, match="size mismatch") as caught:
        load_student(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_extra_keeps_its_own_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_spec: ImageSpec, network: ConvNet
) -> None:
    def missing(*_: Any) -> Any:
        raise MissingExtraError("timm", "timm")

    save_student(tmp_path, network, card(tiny_spec))
    monkeypatch.setattr(deployed_student, "build_network", missing)
    with pytest.raises(MissingExtraError, match="Expected timm to be installed"):
        load_student(tmp_path)
