from pathlib import Path

import pytest
import torch
import yaml  # type: ignore[import-untyped]

from src.config.node import build
from src.network.convnet import ConvNet
from src.network.wide_resnet import WideResNet
from src.teacher.nearest import advice, prefixes

OUTSIDE = {"timm", "torchvision"}
STUDENTS = [p for p in sorted(Path("conf/student").glob("*.yaml")) if p.stem not in OUTSIDE]
CHOSEN = ConvNet([4, 8], num_classes=2)


@pytest.mark.parametrize("path", STUDENTS, ids=lambda path: path.stem)
def test_every_network_is_nearest_to_itself(path: Path) -> None:
    with torch.device("meta"):
        network = build(yaml.safe_load(path.read_text())["network"], num_classes=11)
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    line = advice([state], CHOSEN)
    own = sum(not name.endswith("num_batches_tracked") for name in state)
    assert f"nearest is teacher={path.stem} ({own} of {own} entries match)" in line


def test_half_of_the_entries_must_match() -> None:
    state = dict(WideResNet(16, 1, num_classes=2).state_dict())
    odd = {f"odd{i}": torch.ones(1) for i in range(69)}
    assert "nearest is teacher=wrn16_1 (69 of 138 entries" in advice([state | odd], CHOSEN)
    assert "none is near" in advice([state | odd | {"odd": torch.ones(1)}], CHOSEN)
    assert "none is near" in advice([], CHOSEN)


def test_the_chosen_network_is_not_suggested() -> None:
    chosen = WideResNet(16, 1, num_classes=5)
    state = {**chosen.state_dict(), "attention": torch.ones(1)}
    assert "nearest is the chosen one, wrn16_1 (69 of 70" in advice([state], chosen)


def test_looking_for_a_network_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    advice([CHOSEN.state_dict()], CHOSEN)
    assert torch.equal(torch.get_rng_state(), before)


def test_prefixes_are_counted_by_the_names_below_them() -> None:
    found = prefixes(["net.a.b", "net.c", "d.c", "x"], {"a.b", "c"})
    assert found == {"net.": 2, "d.": 1}
