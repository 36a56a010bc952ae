import math

import pytest
import torch

from src.common.errors import UserError
from src.network.convnet import ConvNet


def test_parameter_count_is_that_of_its_layers() -> None:
    network = ConvNet([4, 6], num_classes=5)
    expected = (3 * 9 * 4 + 2 * 4) + (4 * 9 * 6 + 2 * 6) + (6 * 5 + 5)
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize(("num_stages", "side"), [(1, 32), (2, 16), (4, 4)])
def test_every_stage_but_the_first_halves_the_resolution(num_stages: int, side: int) -> None:
    network = ConvNet([4] * num_stages, num_classes=5)
    assert network.stages(torch.randn(1, 3, 32, 32)).shape == (1, 4, side, side)


def test_it_learns_a_separable_batch() -> None:
    torch.manual_seed(0)
    network = ConvNet([8, 16], num_classes=2)
    labels = torch.arange(16) % 2
    images = torch.randn(16, 3, 16, 16) + labels.view(-1, 1, 1, 1)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < math.log(2) / 2  # log 2 is chance


@pytest.mark.parametrize("widths", [[], [16, 0]])
def test_impossible_widths_are_refused(widths: list[int]) -> None:
    with pytest.raises(UserError, match="`widths` to be positive numbers"):
        ConvNet(widths, num_classes=5)
