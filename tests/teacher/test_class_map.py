from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from src.common.errors import UserError
from src.network.convnet import ConvNet
from src.network.outside import OutsideNetwork
from src.teacher.checkpoint import load_given
from src.teacher.class_map import keep_columns, read_columns
from tests.teacher.weights import network, other, written

CLASSES = ("ant", "bee", "cat")
COLUMNS = [5, 0, 2]
MAP = "bee,0\ncat,2\nant,5\n"


def mapped(folder: Path, text: str | bytes = MAP) -> Path:
    path = folder / "map.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        MAP,
        MAP.rstrip().replace(",", " , "),
        MAP.replace("\n", "\r\n\r\n"),
        "\ufeff" + MAP,
        MAP.replace("ant", '"ant"'),
    ],
)
def test_columns_come_in_the_order_of_the_labels(tmp_path: Path, text: str) -> None:
    assert read_columns(mapped(tmp_path, text), CLASSES, 7) == COLUMNS


def test_a_name_with_a_comma_is_quoted(tmp_path: Path) -> None:
    path = mapped(tmp_path, '"crane, bird",1\nbee,0\n')
    assert read_columns(path, ["bee", "crane, bird"], 2) == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MAP + "ant,6\n", "each class once, but 'ant' stands again in line 4 of"),
        (MAP.replace("5", "2"), "for each class, but 'ant' has that of 'cat', 2, in line 3"),
        ("bee,0\ncat,2\n", "but it lacks 'ant'; write a line 'class,column' for each"),
        (MAP.replace("ant", "Ant"), "but it lacks 'ant', and names 'Ant' instead; write a line"),
        ("class,column\n" + MAP, "in line 1 .* got 'column'; there is no header line"),
        ("", "but it lacks 'ant', 'bee', 'cat'"),
        (MAP + "dog,6\n", "but it names 'dog'; the data has 'ant', 'bee', 'cat'"),
        (
            MAP.replace("5", "7"),
            "from 0 to 6, since the teacher has 7 outputs, but 'ant' has 7 in",
        ),
        (MAP.replace("5", "-1"), r"a column number, from 0, after 'ant,' in line 3 .* got '-1'"),
        (MAP.replace("5", "five"), "got 'five'"),
        (MAP.replace("5", "9" * 5000), "got '9999"),
        (MAP.replace("5", ""), "got ''"),
        (MAP.replace(",", ";"), "Expected 'class,column' in line 1 .*, but got 'bee;0'"),
        (
            MAP.replace("ant", "crane, bird"),
            "got 'crane,bird,5'; a name with a comma needs quotes",
        ),
        (b"\xff\xfe\x00", "Cannot read the class map"),
    ],
)
def test_what_is_no_map_of_these_classes_is_refused(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    path = mapped(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        read_columns(path, CLASSES, 7)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_map_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot read the class map .*map\.csv' \(.*No such file"):
        read_columns(tmp_path / "map.csv", CLASSES, 7)


# With the weights.


def given(path: Path, folder: Path, names: Sequence[str] = CLASSES) -> ConvNet:
    made = load_given(network, path, names, mapped(folder))
    assert isinstance(made, ConvNet)
    return made.eval()


@torch.no_grad()
def test_logits_are_the_chosen_columns(tmp_path: Path) -> None:
    trained = network(classes=7).eval()
    made = given(written(tmp_path / "c.pt", trained.state_dict()), tmp_path)
    images = torch.randn(16, 3, 8, 8)
    assert made.head.out_features == 3
    torch.testing.assert_close(made(images), trained(images)[:, COLUMNS], rtol=1e-6, atol=1e-6)
    assert torch.equal(made.head.weight, trained.head.weight[COLUMNS])
    assert torch.equal(made.head.bias, trained.head.bias[COLUMNS])


def test_of_several_weights_the_plain_ones_say_how_many_outputs_there_are(tmp_path: Path) -> None:
    trained = network(classes=7)
    stored = {"ema": network(classes=9).state_dict(), "state_dict": trained.state_dict()}
    made = given(written(tmp_path / "c.pt", stored), tmp_path)
    assert torch.equal(made.head.weight, trained.head.weight[COLUMNS])


def test_as_many_outputs_as_classes_can_be_in_another_order(tmp_path: Path) -> None:
    trained = network(classes=3)
    weights = written(tmp_path / "c.pt", trained.state_dict())
    path = mapped(tmp_path, "ant,2\nbee,0\ncat,1\n")
    made = load_given(network, weights, CLASSES, path)
    assert torch.equal(made.head.weight, trained.head.weight[[2, 0, 1]])


def test_another_network_or_two_of_them_are_refused_as_without_a_map(tmp_path: Path) -> None:
    wide = network(classes=7, widths=(5, 8)).state_dict()
    with pytest.raises(UserError, match=r"shape \(4, 3, 3, 3\) .* \(5, 3, 3, 3\)"):
        given(written(tmp_path / "c.pt", wide), tmp_path)
    state = network(classes=7).state_dict()
    with pytest.raises(UserError, match=r"one set of weights .* both 'model' and 'net' fit"):
        given(written(tmp_path / "c.pt", {"model": state, "net": other(state)}), tmp_path)
    state["fc.weight"] = torch.zeros(())
    with pytest.raises(UserError, match=r"'fc\.weight' of shape \(3, 8\) .* but got \(\)"):
        given(written(tmp_path / "c.pt", state), tmp_path)


@torch.no_grad()
def test_a_network_of_another_library_without_a_bias_is_cut_too() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(12, 7, bias=False))
    made = OutsideNetwork(inner, head=inner[1], name="theirs")
    images = torch.randn(4, 3, 2, 2)
    expected = made(images)[:, COLUMNS]
    keep_columns(made, COLUMNS)
    torch.testing.assert_close(made(images), expected)
    torch.testing.assert_close(made.head(made.embed(images)), expected)


def test_a_network_without_a_last_linear_layer_is_refused(tmp_path: Path) -> None:
    def make(count: int) -> OutsideNetwork:
        inner = nn.Sequential(nn.Conv2d(3, count, 1), nn.Flatten())
        return OutsideNetwork(inner, head=inner[0], name="theirs")

    weights = written(tmp_path / "c.pt", {"0.weight": torch.zeros(7, 3, 1, 1)})
    with pytest.raises(UserError, match=r"'theirs' to end in one linear layer, .* is Conv2d"):
        load_given(make, weights, CLASSES, mapped(tmp_path))
