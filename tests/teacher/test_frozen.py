import pytest
import torch
from torch import nn

from src.dataset.contract import ImageSpec
from src.network.convnet import ConvNet
from src.teacher.frozen import FrozenTeacher


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(6, 3, 8, 8)


def test_gives_logits_and_features(tiny_teacher: FrozenTeacher, images: torch.Tensor) -> None:
    output = tiny_teacher(images)
    network = tiny_teacher.network
    assert torch.equal(output.features, network.embed(images))
    assert torch.equal(output.logits, network(images))
    assert (output.logits.shape, output.features.shape) == ((6, 4), (6, 8))


def test_no_mode_can_be_set(tiny_teacher: FrozenTeacher, images: torch.Tensor) -> None:
    parent = nn.ModuleList([tiny_teacher]).train()
    tiny_teacher.train()
    assert parent.training
    assert not any(module.training for module in tiny_teacher.modules())


def test_is_the_same_after_any_use(tiny_teacher: FrozenTeacher, images: torch.Tensor) -> None:
    before = tiny_teacher.fingerprint()
    tiny_teacher.train()
    tiny_teacher(images.requires_grad_()).logits.sum().backward()
    assert tiny_teacher.fingerprint() == before


def test_gradients_reach_images_and_no_weight(
    tiny_teacher: FrozenTeacher, images: torch.Tensor
) -> None:
    tiny_teacher(images.requires_grad_()).logits.sum().backward()
    assert images.grad is not None
    assert images.grad.any()
    assert [name for name, p in tiny_teacher.named_parameters() if p.requires_grad] == []
    assert [name for name, p in tiny_teacher.named_parameters() if p.grad is not None] == []


def test_the_last_layer_is_float32_under_autocast(
    tiny_teacher: FrozenTeacher, images: torch.Tensor
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = tiny_teacher(images)
        half = tiny_teacher.network.embed(images)
    assert output.logits.dtype == output.features.dtype == torch.float32
    assert half.dtype == torch.bfloat16
    assert torch.equal(output.logits, tiny_teacher.network.head(output.features))


def test_the_fingerprint_sees_weights_and_statistics(tiny_spec: ImageSpec) -> None:
    network = ConvNet([4, 8], num_classes=tiny_spec.num_classes)
    teacher = FrozenTeacher(network)
    fingerprints = {teacher.fingerprint()}
    for tensor in network.state_dict().values():
        tensor.add_(1)
        fingerprints.add(teacher.fingerprint())
    assert len(fingerprints) == 1 + len(network.state_dict())
