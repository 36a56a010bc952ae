import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from src.common.errors import UserError
from src.common.sealed import DamagedError
from src.network.convnet import ConvNet
from src.teacher.checkpoint import load_into, load_trained, read_state_dict, save_trained
from tests.toys import states_equal


def network(classes: int = 4, widths: tuple[int, ...] = (4, 8)) -> ConvNet:
    return ConvNet(list(widths), num_classes=classes)


@pytest.fixture
def trained() -> ConvNet:
    return network()


def written(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def refused(path: Path, match: str) -> None:
    """Loading ends in one clear line that names the file, and changes nothing."""
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError, match=match) as caught:
        load_into(target, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


FORMATS: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "bare": lambda state: state,
    "wrapped": lambda state: {"state_dict": state, "epoch": 3, "arch": "convnet"},
    "data_parallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "wrapped_data_parallel": lambda state: {
        "state_dict": {f"module.{name}": value for name, value in state.items()}
    },
    "numpy_float64": lambda state: {"state_dict": state, "best_acc1": np.float64(93.2)},
    "numpy_float32": lambda state: {"state_dict": state, "best_acc1": np.float32(93.2)},
    "numpy_int64": lambda state: {"state_dict": state, "epoch": np.int64(7)},
    "tensor_accuracy": lambda state: {"state_dict": state, "best_acc1": torch.tensor(93.2)},
}


@pytest.mark.parametrize("form", FORMATS)
def test_published_formats_are_read(tmp_path: Path, trained: ConvNet, form: str) -> None:
    target = network()
    load_into(target, written(tmp_path / "c.pt", FORMATS[form](trained.state_dict())))
    assert states_equal(target, trained)


@pytest.mark.parametrize("legacy", [False, True])
def test_both_container_formats_of_torch_are_read(
    tmp_path: Path, trained: ConvNet, legacy: bool
) -> None:
    path = tmp_path / "teacher.pth"
    torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    assert read_state_dict(path).keys() == trained.state_dict().keys()


def test_safetensors_are_read(tmp_path: Path, trained: ConvNet) -> None:
    save_file(trained.state_dict(), tmp_path / "t.safetensors")
    target = network()
    load_into(target, tmp_path / "t.safetensors")
    assert states_equal(target, trained)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.pt", "Cannot find the checkpoint")
    refused(tmp_path, "Cannot find the checkpoint")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"\x80", b"not a checkpoint", bytes(range(256)) * 40])
def test_a_file_of_something_else_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"c.{suffix}"
    path.write_bytes(content)
    refused(path, "Cannot read the checkpoint")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", ["pt", "legacy.pt", "safetensors"])
def test_a_truncated_file_is_refused(
    tmp_path: Path, trained: ConvNet, suffix: str, keep: float
) -> None:
    path = tmp_path / f"c.{suffix}"
    if suffix == "safetensors":
        save_file(trained.state_dict(), path)
    else:
        modern = suffix == "pt"
        torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=modern)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    refused(path, "Cannot read the checkpoint")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_checkpoint_is_refused_and_never_run(
    tmp_path: Path, trained: ConvNet, legacy: bool
) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    content = {"state_dict": trained.state_dict(), "best_acc1": Payload(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    refused(path, "Refused .* could execute code")
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # so the payload does work


def test_code_in_a_plain_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    path.write_bytes(pickle.dumps({"weight": Payload(trace)}))
    refused(path, "Cannot read the checkpoint")
    assert not trace.exists()


def test_code_in_a_numpy_scalar_is_refused_and_never_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pt", tmp_path / "trace"
    torch.save({"best_acc1": np.array([Payload(trace)], dtype=object)}, path)
    refused(path, "Refused .* could execute code")
    assert not trace.exists()


def test_a_whole_module_is_refused_with_the_way_out(tmp_path: Path, trained: ConvNet) -> None:
    refused(written(tmp_path / "c.pt", trained), r"torch\.save\(model\.state_dict\(\), path\)")


@pytest.mark.parametrize(
    "content",
    [{}, [1, 2], torch.zeros(3), {"epoch": 3}, {"a": {"b": 1}}, {0: torch.zeros(3)}, "weights"],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    refused(written(tmp_path / "c.pt", content), "but found a")


def test_another_architecture_is_told_by_its_entries(tmp_path: Path) -> None:
    other = network(widths=(4, 8, 8))
    refused(written(tmp_path / "c.pt", other.state_dict()), r"of a ConvNet .* foreign \(first: ")
    linear = nn.Linear(3, 4)
    refused(written(tmp_path / "c.pt", linear.state_dict()), r"missing and 2 are foreign")


def test_another_width_is_told_by_its_shape(tmp_path: Path) -> None:
    other = network(widths=(5, 8))
    refused(
        written(tmp_path / "c.pt", other.state_dict()), r"shape \(4, 3, 3, 3\) .* \(5, 3, 3, 3\)"
    )


def test_another_class_count_is_told_by_both_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "c.pt", network(classes=7).state_dict())
    refused(path, "have 4 classes, but it has 7; choose the matching dataset")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, trained: ConvNet, bad: float
) -> None:
    trained.fc.weight.data[1, 2] = bad
    refused(written(tmp_path / "c.pt", trained.state_dict()), r"finite weights, but 'fc\.weight'")


def test_a_trained_teacher_is_found_again(tmp_path: Path, trained: ConvNet) -> None:
    target = network()
    assert load_trained(target, tmp_path / "t") is None
    save_trained(trained, tmp_path / "t", 91.5, "convnet")
    assert load_trained(target, tmp_path / "t") == 91.5
    assert states_equal(target, trained)


def test_weights_without_a_card_do_not_count(tmp_path: Path, trained: ConvNet) -> None:
    save_trained(trained, tmp_path, 91.5, "convnet")
    (tmp_path / "teacher.json").unlink()
    assert load_trained(network(), tmp_path) is None


@pytest.mark.parametrize("card", ["", "{", "{}", '{"acc1": null}', "[]", '{"acc1": 99.0}'])
def test_a_damaged_card_is_no_teacher(tmp_path: Path, trained: ConvNet, card: str) -> None:
    save_trained(trained, tmp_path, 91.5, "convnet")
    (tmp_path / "teacher.json").write_text(card)
    with pytest.raises(DamagedError, match=r"teacher\.json"):
        load_trained(network(), tmp_path)


@pytest.mark.parametrize("position", [3, 60, 400, -1])
def test_a_flipped_bit_is_no_teacher(tmp_path: Path, trained: ConvNet, position: int) -> None:
    save_trained(trained, tmp_path, 91.5, "convnet")
    path = tmp_path / "teacher.safetensors"
    content = bytearray(path.read_bytes())
    content[position] ^= 2
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"teacher\.safetensors' has been altered"):
        load_trained(network(), tmp_path)
