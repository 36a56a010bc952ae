import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.common.errors import UserError
from src.config.rates import try_scheduler
from src.config.trial import (
    check_adjustment,
    check_node,
    check_size,
    try_adjustment,
    try_optimizer,
)
from src.kdci.adjustment import Adjustment
from src.kdci.dictionary import ConfounderDictionary


class Bare(nn.Module):
    """Forgets ``super().__init__()``, which no line of its own notices."""

    def __init__(self, **supplied: Any) -> None:
        self.__dict__["supplied"] = supplied


class Measuring(nn.Module):
    """Has found something that JSON does not hold."""

    def __init__(self, **supplied: Any) -> None:
        super().__init__()
        self.facts = {"strength": torch.tensor(1.0)}


class Shifting(Adjustment):
    """Adds prototypes to logits, of whatever width they are."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits + self.prototypes.mean(0)


class Shortforward(Adjustment):
    """Loses images."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits[:2]


class Shortweights(Adjustment):
    """Weighs some of them."""

    def weights(self, teacher_logits: Tensor) -> Tensor:
        return teacher_logits[:2, 0].exp()


SGD = {"_target_": "torch.optim.SGD", "lr": 0.1}


def refusal(kind: str, target: str, **arguments: Any) -> str:
    with pytest.raises(UserError) as caught:
        check_node("x", {"_target_": target, **arguments}, kind)
    return str(caught.value)


def test_of_many_values_the_one_at_fault_is_named() -> None:
    message = refusal("optimizer", "torch.optim.SGD", momentum=0.9, lr=-1, weight_decay=1e-4)
    assert message == (
        "Cannot build 'x' (torch.optim.SGD) with lr=-1: Invalid learning rate: -1; change 'x.lr'"
    )


def test_values_that_are_at_fault_together_are_all_named() -> None:
    message = refusal("optimizer", "torch.optim.SGD", lr=-1, momentum=-1, weight_decay=0)
    assert "with lr=-1, momentum=-1, weight_decay=0: " in message
    assert message.endswith("change a value of 'x'")


def test_values_of_which_any_could_give_way_are_named_without_the_others() -> None:
    nesterov = {"nesterov": True, "dampening": 0.5, "momentum": 0.9}
    message = refusal("optimizer", "torch.optim.SGD", lr=0.1, **nesterov)
    assert "with nesterov=True, dampening=0.5: " in message


def test_a_network_s_value_at_fault_is_named() -> None:
    message = refusal("network", "src.network.convnet.ConvNet", widths=[0])
    assert "with widths=[0]: " in message
    assert message.endswith("change 'x.widths'")


def test_groups_have_rates_relative_to_the_node_s() -> None:
    optimizer = try_optimizer("x", SGD, [1.0, 0.5])
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.05]
    assert len(try_optimizer("x", SGD).param_groups) == 1


def test_a_trial_throws_no_dice_and_warns_of_nothing() -> None:
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_node("x", {"_target_": "src.network.convnet.ConvNet", "widths": [4]}, "network")
        node = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1}
        try_scheduler("x", node, lambda: try_optimizer("y", SGD), 2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "target", "size", "expected"),
    [
        ("generator", "src.network.generator.Generator", 33, "a multiple of 4, but got 33"),
        ("generator", "src.network.generator.DAFLGenerator", 2, "a multiple of 4, but got 2"),
        ("discriminator", "src.network.patch_discriminator.PatchDiscriminator", 2, "Kernel size"),
    ],
)
def test_a_network_that_cannot_take_or_make_the_images_is_named(
    kind: str, target: str, size: int, expected: str
) -> None:
    node = {"_target_": target}
    check_size("x", node, kind, 28)
    with pytest.raises(UserError) as caught:
        check_size("x", node, kind, size)
    assert f"Cannot use 'x' ({target}) for images of {size} x {size} pixels: " in str(caught.value)
    assert expected in str(caught.value)


def test_stages_that_a_network_does_not_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("src.network.resnet.ResNet.stage_names", ("layer1", "layer5"))
    message = refusal("network", "src.network.resnet.ResNet", depth=18)
    assert "expected `stage_names` of its modules, but got layer5" in message
    assert "\n" not in message


def test_an_adjustment_that_was_not_initialised_is_one_line() -> None:
    with pytest.raises(UserError, match=r"Cannot build 'kdci\.adjustment' .* '_parameters'"):
        try_adjustment("kdci.adjustment", {"_target_": f"{__name__}.Bare"}, "logits", 2)


def test_what_an_adjustment_has_found_must_be_numbers() -> None:
    expected = r"a number in facts\['strength'\], but got tensor"
    with pytest.raises(UserError, match=expected):
        try_adjustment("kdci.adjustment", {"_target_": f"{__name__}.Measuring"}, "logits", 2)


@pytest.mark.parametrize("space", ["logits", "features"])
def test_an_adjustment_is_tried_on_predictions_and_prototypes_of_the_space(space: str) -> None:
    node = {"_target_": f"{__name__}.Shifting"}
    if space == "logits":
        check_adjustment("kdci.adjustment", node, space, 2, num_classes=3)
        return
    with pytest.raises(UserError, match=r"Cannot build 'kdci\.adjustment' .* must match the size"):
        check_adjustment("kdci.adjustment", node, space, 2, num_classes=3)


@pytest.mark.parametrize("method", ["forward", "weights"])
def test_what_an_adjustment_gives_must_fit_the_batch(method: str) -> None:
    node = {"_target_": f"{__name__}.Short{method}"}
    with pytest.raises(UserError, match=rf"expected {method} of 4 images .*\[4.* but got \[2"):
        check_adjustment("kdci.adjustment", node, "logits", 2, num_classes=3)


class Whitening(Adjustment):
    """Needs prototypes that differ, as those of data do, and four of them; three classes."""

    def __init__(self, *, dictionary: ConfounderDictionary, **supplied: Any) -> None:
        super().__init__(dictionary=dictionary, **supplied)
        few = dictionary.prototypes.topk(3, dim=1).values[dictionary.prior.topk(4).indices]
        self.register_buffer("factor", torch.linalg.cholesky(few.T @ few))

    def forward(self, logits: Tensor) -> Tensor:
        return logits / logits.square().sum(dim=1, keepdim=True)

    def weights(self, logits: Tensor) -> Tensor:
        found = 1 / logits.norm(dim=1)
        if not found.isfinite().all():
            raise ValueError("no weight")
        return found


def test_an_adjustment_is_tried_on_data_that_mean_something() -> None:
    node = {"_target_": f"{__name__}.Whitening"}
    try_adjustment("kdci.adjustment", node, "logits", 16)
    check_adjustment("kdci.adjustment", node, "logits", 16, num_classes=10)
    with pytest.raises(UserError, match="out of range"):
        try_adjustment("kdci.adjustment", node, "logits", "auto")  # which may find two
