import logging
from pathlib import Path

import pytest
from torch import Tensor

from src.common.sealed import DamagedError
from src.network.convnet import ConvNet
from src.teacher.checkpoint import load_into, load_trained, save_trained
from tests.teacher.weights import network, written
from tests.toys import states_equal


@pytest.fixture
def trained() -> ConvNet:
    return network()


def with_metric(trained: ConvNet) -> dict[str, Tensor]:
    state = {f"net.{name}": value for name, value in trained.state_dict().items()}
    return {**state, "val_acc.max_value": trained.fc.bias}


@pytest.mark.parametrize("quiet", [False, True])
def test_what_was_left_out_is_said_once_at_will(
    tmp_path: Path, trained: ConvNet, caplog: pytest.LogCaptureFixture, quiet: bool
) -> None:
    caplog.set_level(logging.INFO)
    target = network()
    load_into(target, written(tmp_path / "c.ckpt", with_metric(trained)), quiet=quiet)
    assert states_equal(target, trained)
    assert len(caplog.messages) == (0 if quiet else 1)
    assert all("no part of the network: 'val_acc.max_value'" in line for line in caplog.messages)


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
