import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from src.objective.inversion import (
    BNStatistics,
    BNTarget,
    activation_loss,
    align_loss,
    balance_loss,
    bn_statistics_loss,
    class_loss,
    image_norm,
    one_hot_loss,
    total_variation_l1,
    total_variation_l2,
)
from tests.reference import inversion as reference
from tests.reference.compare import assert_same_with_gradients, value_and_gradients
from tests.reference.sums import total

Loss = Callable[[Tensor], Tensor]

WIDTHS = (2, 4, 1)


def layers() -> list[Tensor]:
    return [torch.randn(3, width, 2, 2) for width in WIDTHS]


def running() -> tuple[list[Tensor], list[Tensor]]:
    means = [torch.randn(width).double() for width in WIDTHS]
    return means, [torch.rand(width).double() + 0.5 for width in WIDTHS]


def statistics(inputs: tuple[Tensor, ...]) -> BNStatistics:
    pairs = [torch.var_mean(h, dim=(0, 2, 3), correction=0) for h in inputs]
    return BNStatistics.from_layers([mean for _, mean in pairs], [var for var, _ in pairs])


# Terms of the prediction


def test_class_loss_equals_the_slow_equation() -> None:
    labels = torch.tensor([4, 0, 0, 2])
    assert_same_with_gradients(
        lambda logits: class_loss(logits, labels),
        lambda logits: reference.of_class(logits, labels),
        3 * torch.randn(4, 5),
    )


@pytest.mark.parametrize("base", [math.e, 2, 10])
def test_balance_equals_the_slow_equation(base: float) -> None:
    assert_same_with_gradients(
        lambda logits: balance_loss(logits, base),
        lambda logits: reference.balance(logits, base),
        3 * torch.randn(4, 5),
    )


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (one_hot_loss, reference.one_hot),
        (activation_loss, reference.activation),
        (align_loss, reference.align),
    ],
)
def test_prediction_terms_equal_the_slow_equations(actual: Loss, expected: Loss) -> None:
    assert_same_with_gradients(actual, expected, 3 * torch.randn(4, 5))


@pytest.mark.parametrize(
    ("num_classes", "base", "least"), [(10, 10, -1.0), (100, 10, -2.0), (100, 2, -6.644)]
)
def test_balance_of_a_uniform_batch_is_minus_log_k(
    num_classes: int, base: float, least: float
) -> None:
    each_class_once = 1000 * torch.eye(num_classes)
    for logits in (torch.zeros(8, num_classes), each_class_once):
        assert balance_loss(logits, base).item() == pytest.approx(least, abs=1e-3)


def test_balance_of_a_collapsed_batch_is_zero_with_finite_gradient() -> None:
    collapsed = torch.tensor([[1000.0, 0.0, 0.0]]).repeat(4, 1)
    value, gradient = value_and_gradients(balance_loss, collapsed)
    assert value == 0
    assert gradient.isfinite().all()


def test_weight_times_base_ten_balance_equals_the_converted_weight_in_nats() -> None:
    logits = torch.randn(4, 5)
    torch.testing.assert_close(
        5 * balance_loss(logits, 10), 2.171 * balance_loss(logits), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(
        10 * balance_loss(logits, 2), 14.43 * balance_loss(logits), rtol=1e-3, atol=0
    )


def test_align_is_the_soft_entropy_and_not_the_argmax_cross_entropy() -> None:
    torch.testing.assert_close(align_loss(torch.zeros(4, 7)), torch.tensor(math.log(7)))
    assert align_loss(1000 * torch.eye(3)).item() == 0
    logits = torch.randn(4, 7)
    assert not torch.isclose(align_loss(logits), one_hot_loss(logits))


def test_class_loss_of_a_uniform_prediction_is_log_k() -> None:
    loss = class_loss(torch.zeros(4, 7), torch.tensor([0, 3, 6, 6]))
    torch.testing.assert_close(loss, torch.tensor(math.log(7)))


@pytest.mark.parametrize("loss", [one_hot_loss, balance_loss, align_loss])
def test_underflowed_classes_give_finite_values_and_gradients(loss: Loss) -> None:
    for result in value_and_gradients(loss, 5000 * torch.eye(4)):
        assert result.isfinite().all()


@pytest.mark.parametrize(
    "loss",
    [
        one_hot_loss,
        activation_loss,
        balance_loss,
        align_loss,
        lambda x: class_loss(x, torch.zeros(len(x), dtype=torch.int64)),
        lambda x: total_variation_l1(x.view(2, 1, 2, 5)),
        lambda x: total_variation_l2(x.view(2, 1, 2, 5)),
        image_norm,
    ],
)
def test_bfloat16_inputs_give_float32_losses_as_if_widened_first(loss: Loss) -> None:
    tensor = torch.randn(4, 5).bfloat16()
    assert loss(tensor).dtype == torch.float32
    assert torch.equal(loss(tensor), loss(tensor.float()))


# BatchNorm statistics


def test_bn_loss_equals_the_slow_equation_for_every_layer_input() -> None:
    means, variances = running()
    target = BNTarget.from_layers(means, variances)

    def expected(*inputs: Tensor) -> Tensor:
        return total(map(reference.bn_layer, inputs, means, variances))

    assert_same_with_gradients(
        lambda *inputs: bn_statistics_loss(statistics(inputs), target), expected, *layers()
    )


class Devices(TorchDispatchMode):
    """Where the results of operations lie."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.seen.add(result.device.type)
        return result


def test_a_bn_target_of_the_same_layers_needs_nothing_of_the_host() -> None:
    means = [torch.zeros(width, device="meta") for width in WIDTHS]
    BNTarget.from_layers(means, means)
    with Devices() as devices:
        BNTarget.from_layers(means, means)
    assert devices.seen == {"meta"}


def test_bn_targets_of_other_layers_are_their_own() -> None:
    narrow, wide = (
        BNTarget.from_layers(*2 * [[torch.ones(width) for width in widths]])
        for widths in ([1, 2], [2, 1])
    )
    assert [target.segments.tolist() for target in (narrow, wide)] == [[0, 1, 1], [0, 0, 1]]


def test_bn_loss_weighs_layers() -> None:
    means, variances = running()
    target = BNTarget.from_layers(means, variances)
    weights = torch.tensor([10.0, 1.0, 1.0], dtype=torch.float64)

    def expected(*inputs: Tensor) -> Tensor:
        terms = map(reference.bn_layer, inputs, means, variances)
        return total(w * term for w, term in zip(weights, terms, strict=True))

    assert_same_with_gradients(
        lambda *inputs: bn_statistics_loss(statistics(inputs), target, weights),
        expected,
        *layers(),
    )


def test_smoothed_bn_loss_equals_the_slow_equation() -> None:
    (means, variances), (old_means, old_vars) = running(), running()
    target = BNTarget.from_layers(means, variances)
    previous = BNStatistics.from_layers(old_means, old_vars)

    def expected(*inputs: Tensor) -> Tensor:
        old = zip(old_means, old_vars, strict=True)
        rows = zip(inputs, means, variances, old, strict=True)
        return total(reference.bn_layer(h, m, v, 0.9, past) for h, m, v, past in rows)

    assert_same_with_gradients(
        lambda *inputs: bn_statistics_loss(statistics(inputs).smoothed(previous, 0.9), target),
        expected,
        *layers(),
    )


def test_momentum_scales_the_gradient_by_exactly_its_complement() -> None:
    target = BNTarget.from_layers(*running())

    def loss(mean: Tensor, var: Tensor, momentum: float) -> Tensor:
        batch = BNStatistics(mean, var)
        # Far beyond the target on the same side, so that smoothing turns no direction.
        gap = BNStatistics(mean - target.mean, var - target.var)
        past = BNStatistics(target.mean + 3 * gap.mean, target.var + 3 * gap.var)
        return bn_statistics_loss(batch.smoothed(past, momentum), target)

    point = (torch.randn(7), torch.rand(7))
    _, *plain = value_and_gradients(lambda m, v: loss(m, v, 0.0), *point)
    _, *smooth = value_and_gradients(lambda m, v: loss(m, v, 0.9), *point)
    for gradient, scaled in zip(plain, smooth, strict=True):
        torch.testing.assert_close(scaled, 0.1 * gradient)


def test_first_round_without_previous_statistics_is_not_smoothed() -> None:
    batch = BNStatistics(torch.randn(7), torch.rand(7))
    assert batch.smoothed(None, 0.9) is batch


def test_smoothing_holds_the_past_constant() -> None:
    mean, var = torch.randn(7, requires_grad=True), torch.rand(7, requires_grad=True)
    batch = BNStatistics(torch.randn(7), torch.rand(7)).smoothed(BNStatistics(mean, var), 0.9)
    assert not batch.mean.requires_grad
    assert not batch.var.requires_grad


def test_gradient_of_each_layer_has_unit_length_however_far_off_it_is() -> None:
    target = BNTarget.from_layers(*running())
    for distance in (1e-3, 1.0, 1e3):
        _, mean, var = value_and_gradients(
            lambda m, v: bn_statistics_loss(BNStatistics(m, v), target),
            target.mean + distance * torch.randn(7),
            target.var + distance * torch.randn(7),
        )
        for gradient in (mean, var):
            squares = torch.zeros(3).double().index_add(0, target.segments, gradient.square())
            torch.testing.assert_close(squares, torch.ones(3).double())


def test_matching_statistics_cost_nothing_and_have_zero_gradient() -> None:
    target = BNTarget.from_layers(*running())
    value, *gradients = value_and_gradients(
        lambda m, v: bn_statistics_loss(BNStatistics(m, v), target), target.mean, target.var
    )
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


def test_one_matching_layer_leaves_the_others_gradient_alone() -> None:
    target = BNTarget.from_layers(*running())
    mean = target.mean.clone()
    mean[2:] += 1
    _, gradient, _ = value_and_gradients(
        lambda m, v: bn_statistics_loss(BNStatistics(m, v), target), mean, target.var
    )
    torch.testing.assert_close(gradient, torch.tensor([0, 0, 0.5, 0.5, 0.5, 0.5, 1.0]).double())


def test_target_copies_the_running_statistics_of_real_layers() -> None:
    norms = [nn.BatchNorm2d(width) for width in WIDTHS]
    target = BNTarget.from_layers(
        [norm.get_buffer("running_mean") for norm in norms],
        [norm.get_buffer("running_var") for norm in norms],
    )
    assert target.num_layers == 3
    assert target.segments.tolist() == [0, 0, 1, 1, 1, 1, 2]
    norms[0](torch.randn(4, 2, 3, 3) + 5)
    assert not target.mean.any()
    assert (target.var == 1).all()


def test_bfloat16_statistics_give_a_float32_loss() -> None:
    target = BNTarget.from_layers([torch.zeros(3)], [torch.ones(3)])
    batch = BNStatistics.from_layers([torch.ones(3).bfloat16()], [torch.ones(3).bfloat16()])
    loss = bn_statistics_loss(batch, target)
    torch.testing.assert_close(loss, torch.tensor(3.0).sqrt())


# Priors on pixels


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (total_variation_l1, reference.total_variation_l1),
        (total_variation_l2, reference.total_variation_l2),
        (image_norm, lambda x: reference.image_norm(x, per_sample=False)),
        (lambda x: image_norm(x, per_sample=True), lambda x: reference.image_norm(x, True)),
    ],
)
def test_image_priors_equal_the_slow_equations(actual: Loss, expected: Loss) -> None:
    assert_same_with_gradients(actual, expected, torch.randn(2, 2, 3, 4))


@pytest.mark.parametrize(
    "loss",
    [total_variation_l1, total_variation_l2, image_norm, lambda x: image_norm(x, True)],
)
def test_flat_black_images_have_zero_prior_and_finite_gradient(loss: Loss) -> None:
    value, gradient = value_and_gradients(loss, torch.zeros(2, 3, 4, 4))
    assert value == 0
    assert not gradient.any()


def test_repeating_the_batch_scales_the_norms_but_not_the_means() -> None:
    images = torch.randn(2, 3, 4, 4)
    fourfold = images.repeat(4, 1, 1, 1)
    torch.testing.assert_close(total_variation_l1(fourfold), total_variation_l1(images))
    torch.testing.assert_close(total_variation_l2(fourfold), 2 * total_variation_l2(images))
    torch.testing.assert_close(image_norm(fourfold), 2 * image_norm(images))
    torch.testing.assert_close(image_norm(fourfold, True), image_norm(images, True))


def test_total_variation_of_a_horizontal_ramp() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 3, 4)  # 1 per step right, 0 down, 1 on both diagonals
    assert total_variation_l1(ramp).item() == 3
