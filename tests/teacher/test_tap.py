import pytest
import torch
from torch import nn

from src.common.errors import UserError
from src.network.resnet import ResNet
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import tap


def num_hooks(teacher: FrozenTeacher) -> int:
    return sum(
        len(module._forward_pre_hooks) + len(module._forward_hooks) for module in teacher.modules()
    )


def test_it_hears_what_enters_every_bn_layer(tiny_teacher: FrozenTeacher) -> None:
    images = torch.randn(5, 3, 8, 8)
    conv, bn, relu, next_conv = tiny_teacher.network.get_submodule("stages")[:4]  # type: ignore[index]
    with tap(tiny_teacher) as heard:
        tiny_teacher(images)
        first, second = heard.inputs
        statistics = heard.statistics()
    torch.testing.assert_close(first, conv(images))
    torch.testing.assert_close(second, next_conv(relu(bn(first))))
    both = [first.transpose(0, 1).flatten(1), second.transpose(0, 1).flatten(1)]
    torch.testing.assert_close(statistics.mean, torch.cat([rows.mean(1) for rows in both]))
    variances = torch.cat([rows.var(1, correction=0) for rows in both])
    torch.testing.assert_close(statistics.var, variances)


def test_target_is_the_running_statistics(tiny_teacher: FrozenTeacher) -> None:
    layers = [m for m in tiny_teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    with tap(tiny_teacher) as heard:
        target = heard.target
    means = [layer.running_mean for layer in layers if layer.running_mean is not None]
    assert torch.equal(target.mean, torch.cat(means))
    assert target.num_layers == 2
    assert target.segments.bincount().tolist() == [4, 8]


def test_features_are_spatial_means_of_the_last_forward_pass(tiny_teacher: FrozenTeacher) -> None:
    with tap(tiny_teacher) as heard:
        tiny_teacher(torch.randn(2, 3, 8, 8))
        images = torch.randn(5, 3, 8, 8)
        tiny_teacher(images)
        pooled = heard.pooled()
        assert len(heard.inputs) == 2
    assert pooled.shape == (5, 12)
    expected = tiny_teacher.network.get_submodule("stages.0")(images).mean(dim=(2, 3))
    torch.testing.assert_close(pooled[:, :4], expected)


def test_gradients_flow_to_the_images(tiny_teacher: FrozenTeacher) -> None:
    images = torch.randn(3, 3, 8, 8, requires_grad=True)
    with tap(tiny_teacher) as heard:
        tiny_teacher(images)
        (gradient,) = torch.autograd.grad(heard.pooled()[:, 4:].sum(), images)
    assert gradient.any()


def test_named_layers_replace_the_features_and_leave_the_statistics() -> None:
    teacher = FrozenTeacher(ResNet(18, num_classes=3))
    names = ("layer1", "layer2", "layer3", "layer4")
    with torch.no_grad(), tap(teacher, names) as heard:
        teacher(torch.randn(2, 3, 8, 8))
        widths = [maps.shape[1] for maps in heard.named_inputs]
        pooled, statistics = heard.pooled(), heard.statistics()
        last = heard.named_inputs[-1].mean(dim=(2, 3))
    assert widths == [64, 64, 128, 256]
    torch.testing.assert_close(pooled[:, 256:], last)
    assert len(statistics.mean) == 4800


@pytest.mark.parametrize("names", [(), ("layer1", "layer2", "layer3", "layer4")])
def test_features_alone_stop_behind_the_last_layer(names: tuple[str, ...]) -> None:
    teacher = FrozenTeacher(ResNet(18, num_classes=3))
    first, second = torch.randn(2, 2, 3, 8, 8)
    reached = []
    last = teacher.network.get_submodule("layer4.1.conv2")
    last.register_forward_hook(lambda *_: reached.append("layer4"))
    teacher.network.head.register_forward_hook(lambda *_: reached.append("head"))
    with torch.no_grad(), tap(teacher, names) as heard:
        whole = heard.features(teacher, second)  # of no pass before it is known where to stop
        assert reached == ["layer4", "head"]
        teacher(first)
        reached.clear()
        assert torch.equal(heard.features(teacher, second), whole)
        assert torch.equal(heard.features(teacher, second), whole)
        assert reached == ([] if names else ["layer4"] * 2)
        teacher(second)
        assert reached[-2:] == ["layer4", "head"]
        assert torch.equal(heard.pooled(), whole)


def test_gradients_of_features_alone_are_those_of_a_whole_pass(
    tiny_teacher: FrozenTeacher,
) -> None:
    images = torch.randn(3, 3, 8, 8, requires_grad=True)
    with tap(tiny_teacher) as heard:
        tiny_teacher(images)
        (expected,) = torch.autograd.grad(heard.pooled().square().sum(), images)
        features = heard.features(tiny_teacher, images)
        (gradient,) = torch.autograd.grad(features.square().sum(), images)
    assert torch.equal(gradient, expected)


def test_a_missing_layer_is_named(tiny_teacher: FrozenTeacher) -> None:
    with (
        pytest.raises(UserError, match="layer 'layer1', but ConvNet has none"),
        tap(tiny_teacher, ["layer1"]),
    ):
        pass
    assert num_hooks(tiny_teacher) == 0


def test_nothing_is_heard_outside(tiny_teacher: FrozenTeacher) -> None:
    with tap(tiny_teacher) as heard:
        tiny_teacher(torch.randn(2, 3, 8, 8))
        assert num_hooks(tiny_teacher) == 3
    assert heard.inputs == []
    tiny_teacher(torch.randn(2, 3, 8, 8))
    assert heard.inputs == []
    assert num_hooks(tiny_teacher) == 0


def test_an_error_inside_leaves_no_hook(tiny_teacher: FrozenTeacher) -> None:
    with pytest.raises(ZeroDivisionError), tap(tiny_teacher):
        raise ZeroDivisionError
    assert num_hooks(tiny_teacher) == 0


def test_bn_without_running_statistics_is_refused(tiny_teacher: FrozenTeacher) -> None:
    layer = next(m for m in tiny_teacher.modules() if isinstance(m, nn.BatchNorm2d))
    layer.running_mean = None
    with pytest.raises(ValueError, match="track running statistics"), tap(tiny_teacher):
        pass
