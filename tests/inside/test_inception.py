import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.models import inception_v3

from src.common.errors import MissingExtraError, UserError
from src.common.files import sha256_file
from src.inside.frechet import FrechetDistance
from src.inside.inception import DIM, Inception


@pytest.fixture(scope="module")
def entries() -> dict[str, Tensor]:
    """What the published file holds, at random: 1008 classes, nothing auxiliary, no counters."""
    network = inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    state = network.state_dict().items()
    return {name: tensor for name, tensor in state if not name.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def weights(entries: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(entries, path)
    return path


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)


def test_features_are_those_of_the_library(weights: Path) -> None:
    library = pytest.importorskip("torch_fidelity")
    expected = library.FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=str(weights)
    )
    shown = images(1)
    network = Inception(weights)
    found = network(shown)
    assert (found.shape, found.dtype) == ((1, DIM), torch.float32)
    assert found.std() > 1e-3
    assert torch.equal(found, expected(shown)[0])
    assert network.facts["weights"] == {"name": "weights.pth", "sha256": sha256_file(weights)}
    assert network.facts["extractor"].endswith(sha256_file(weights)[:8])


@pytest.mark.slow
def test_the_distance_is_that_of_the_library_and_of_a_closed_form(weights: Path) -> None:
    library = pytest.importorskip("torch_fidelity")
    made, originals = images(24) // 2, images(20)
    network, distance = Inception(weights), FrechetDistance(DIM)
    features = [network(made), network(originals)]
    distance.add_images(features[0])
    distance.add_originals(features[1])
    first, second = (rows.double() for rows in features)
    # tr (C1 C2)^(1/2) is the nuclear norm of the product of the roots that the rows are.
    roots = [(rows - rows.mean(0)) / (len(rows) - 1) ** 0.5 for rows in (first, second)]
    expected = (first.mean(0) - second.mean(0)).square().sum()
    expected += sum(root.square().sum() for root in roots)
    expected -= 2 * torch.linalg.matrix_norm(roots[0] @ roots[1].T, "nuc")
    assert distance.value() == pytest.approx(expected.item(), rel=1e-4)
    options: dict[str, Any] = {
        "cuda": False,
        "verbose": False,
        "cache": False,
        "save_cpu_ram": True,
    }
    found = library.calculate_metrics(
        input1=Images(made),
        input2=Images(originals),
        fid=True,
        feature_extractor_weights_path=str(weights),
        batch_size=8,
        **options,
    )
    assert distance.value() == pytest.approx(found["frechet_inception_distance"], rel=1e-4)


class Images(TensorDataset):
    """As torch-fidelity takes them: tensors, not tuples of them."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)[0]


def broken(entries: dict[str, Tensor], how: str) -> Any:
    if how == "another network":
        return {"conv1.weight": torch.ones(64, 3, 7, 7), "fc.bias": torch.ones(1000)}
    if how == "other classes":
        return entries | {"fc.weight": torch.ones(1000, DIM)}
    if how == "an auxiliary part":
        return entries | {"AuxLogits.fc.bias": torch.ones(1000)}
    if how == "a missing entry":
        return {name: tensor for name, tensor in entries.items() if name != "fc.bias"}
    if how == "not finite":
        return entries | {"fc.bias": torch.full((1008,), torch.nan)}
    return {"state_dict": entries}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("another network", r'Missing key\(s\).*"Conv2d_1a_3x3.conv.weight"'),
        ("other classes", "size mismatch for fc.weight"),
        ("an auxiliary part", r"Unexpected key\(s\).*AuxLogits"),
        ("a missing entry", r"Missing key\(s\).*fc.bias"),
        ("not finite", "NaN or infinite"),
        ("nested", "more than named tensors"),
    ],
)
def test_what_is_no_such_network_is_refused_in_one_line(
    entries: dict[str, Tensor], tmp_path: Path, how: str, reason: str
) -> None:
    pytest.importorskip("torch_fidelity")
    torch.save(broken(entries, how), path := tmp_path / "other.pth")
    with pytest.raises(UserError, match=f"other.pth' as fid.weights: .*{reason}") as error:
        Inception(path)
    assert "\n" not in str(error.value)
    assert "pt_inception-2015-12-05-6726825d.pth" in str(error.value)


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_file_that_executes_code_is_refused_and_does_not(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    torch.save({"fc.bias": Trap(tmp_path / "executed")}, path := tmp_path / "weights.pth")
    with pytest.raises(UserError, match="could execute code"):
        Inception(path)
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_is_refused_and_nothing_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.delattr(module, "load_state_dict_from_url")
    with pytest.raises(UserError, match=r"Cannot find fid\.weights=.*absent\.pth"):
        Inception(tmp_path / "absent.pth")


def test_without_torch_fidelity_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(MissingExtraError, match=r"pip install -e '.\[fid\]'.*fid.weights"):
        Inception(tmp_path / "weights.pth")
