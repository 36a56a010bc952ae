import pytest
import torch

from src.dataset.contract import ImageSpec, Split
from src.dataset.loader import LabelledBatches
from src.network.convnet import ConvNet
from src.teacher.evaluate import accuracy
from tests.toys import CPU


def batches(spec: ImageSpec, labels: list[int]) -> LabelledBatches:
    images = torch.randint(0, 256, (len(labels), 3, 8, 8), dtype=torch.uint8)
    return LabelledBatches(Split(images, torch.tensor(labels)), spec, 4, CPU)


@pytest.fixture
def constant(tiny_spec: ImageSpec) -> ConvNet:
    """Always predicts class 2."""
    network = ConvNet([4, 8], num_classes=tiny_spec.num_classes)
    network.fc.bias.data[2] = 1000
    return network


def test_is_the_share_of_hits_over_all_batches(tiny_spec: ImageSpec, constant: ConvNet) -> None:
    assert accuracy(constant, batches(tiny_spec, [2, 2, 2, 2, 2, 0])) == pytest.approx(500 / 6)
    assert accuracy(constant, batches(tiny_spec, [0, 1, 3])) == 0


def test_evaluates_in_eval_mode_and_puts_the_mode_back(
    tiny_spec: ImageSpec, constant: ConvNet
) -> None:
    constant.train()
    constant.stages[1].eval()
    before = [module.training for module in constant.modules()]
    statistics = [buffer.clone() for buffer in constant.buffers()]
    accuracy(constant, batches(tiny_spec, [2] * 8))
    assert [module.training for module in constant.modules()] == before
    assert all(map(torch.equal, constant.buffers(), statistics))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_predictions_that_are_not_finite_have_no_accuracy(
    tiny_spec: ImageSpec, constant: ConvNet, bad: float
) -> None:
    constant.fc.bias.data[1] = bad  # NaN would be counted as class 0
    with pytest.raises(FloatingPointError, match=r"ConvNet .* no accuracy; check .*checkpoint"):
        accuracy(constant, batches(tiny_spec, [0] * 6))
