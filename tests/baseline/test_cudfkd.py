import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from src.baseline.cudfkd import CuDFKD
from src.common.errors import UserError
from src.dataset.contract import ImageSpec
from src.network.convnet import ConvNet
from src.network.generator import Generator
from src.objective.self_paced import SelfPacedObjective
from src.substitution.contract import advance
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import tap
from tests.reference import inversion
from tests.reference.distillation import kl
from tests.reference.sums import total

OPTIONS = {
    "generator": partial(Generator, latent_dim=3, base_width=2),
    "optimizer": partial(SGD, lr=0.0),
    "batch_size": 16,
    "total_rounds": 10,
    "adversarial_weight": 0.7,
    "adversarial_rise": 4.0,
    "rise_begins": 0.2,
    "rise_ends": 0.7,
    "bn_weight": 0.3,
    "one_hot_weight": 0.5,
    "balance_weight": 3.0,
    "temperature": 5.0,
    "distance": "l1",
    "initial_age": 2.0,
    "growth": 1e-4,
}


@pytest.fixture
def make(tiny_spec: ImageSpec, teacher: ConvNet) -> Any:
    """Makes the method."""

    def build(**changes: Any) -> CuDFKD:
        return CuDFKD(
            teacher=FrozenTeacher(copy.deepcopy(teacher)), spec=tiny_spec, **(OPTIONS | changes)
        )  # type: ignore[arg-type]

    return build


@pytest.fixture
def teacher(tiny_spec: ImageSpec) -> ConvNet:
    """A network of which several classes are decided for."""
    network = ConvNet([3, 4], num_classes=tiny_spec.num_classes)
    nn.init.normal_(network.fc.weight, std=3)
    return network


@pytest.fixture
def student(teacher: ConvNet) -> ConvNet:
    """One that takes one class for another, and others for what they are."""
    network = copy.deepcopy(teacher)
    first, second, *others = network.fc.weight.data
    network.fc.weight.data = torch.stack([second, first, *(0.5 * row for row in others)])
    return network


def spread(method: CuDFKD) -> CuDFKD:
    """With images that differ: a narrow generator's first ones hardly do."""
    for parameter in method.generator.parameters():
        nn.init.normal_(parameter)
    return method


def test_losses_and_gradient_equal_the_literal_ones(float64: Any, make: Any, student: Any) -> None:
    method = spread(make())
    for _ in range(4):
        advance(method, student)  # until a is 0.7 + 4 * (0.4 - 0.2) / 0.5
    torch.manual_seed(1)
    images = method.normalisation(method.generator.train()(torch.randn(16, 3)))
    with tap(method.teacher) as heard:
        logits = method.teacher(images).logits
        layers = list(heard.inputs)
    its = student.eval()(images)
    assert {bool(same) for same in its.argmax(1) == logits.argmax(1)} == {True, False}
    rows = zip(its, logits, strict=True)
    agreed = [9 * kl(s, t, 3.0) * bool(s.argmax() == t.argmax()) for s, t in rows]
    bns = [m for m in method.teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    expected = {
        "adversarial": -total(agreed) / 16,
        "bn": total(
            inversion.norm(x.mean((0, 2, 3)) - bn.running_mean)
            + inversion.norm(x.var((0, 2, 3), correction=0) - bn.running_var)
            for x, bn in zip(layers, bns, strict=True)
        ),
        "one_hot": inversion.one_hot(logits),
        "balance": inversion.balance(logits / 5, torch.e),
    }
    weights = {"adversarial": 2.3, "bn": 0.3, "one_hot": 0.5, "balance": 3.0}
    parameters = list(method.generator.parameters())
    loss = total(weights[name] * term for name, term in expected.items())
    gradients = torch.autograd.grad(loss, parameters)
    torch.manual_seed(1)
    terms = advance(method, student)
    assert {*terms} == {*expected}
    for name, term in expected.items():
        torch.testing.assert_close(terms[name], term.detach())
    torch.testing.assert_close(
        [p.grad for p in parameters], list(gradients), rtol=1e-8, atol=1e-11
    )


def test_the_adversarial_weight_rises_along_a_line_and_goes_on_after_a_break(make: Any) -> None:
    method, student = make(), None
    found = []
    for _ in range(10):
        found.append(method.adversarial_weight())
        advance(method, student)
    rising = [0.7 + 4 * gone for gone in (0.2, 0.4, 0.6, 0.8)]
    assert found == pytest.approx([0.7] * 3 + rising + [4.7] * 3)
    again = make()
    again.load_state_dict(method.state_dict())
    assert again.round == 10


def test_no_adversarial_term_at_weight_0_or_without_a_student(make: Any, student: Any) -> None:
    method = make(adversarial_weight=0.0)
    assert ["adversarial" in advance(method, student) for _ in range(4)] == [False] * 3 + [True]
    assert "adversarial" not in advance(method, None)


def test_a_rise_may_take_all_the_rounds(make: Any) -> None:
    method = make(rise_begins=0.0, rise_ends=1.0)
    method.round = 5
    assert method.adversarial_weight() == pytest.approx(0.7 + 4 / 2)


@pytest.mark.parametrize(("begins", "ends"), [(0.5, 0.5), (0.5, 1.5)])
def test_a_rise_is_within_the_rounds(make: Any, begins: float, ends: float) -> None:
    with pytest.raises(UserError, match=r"rise_begins < baseline\.rise_ends <= 1"):
        make(rise_begins=begins, rise_ends=ends)


def test_the_generator_starts_as_published(make: Any) -> None:
    generator = make(generator=partial(Generator, latent_dim=64)).generator
    projection = generator.l1[0]
    assert float(projection.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not projection.bias.any()


def test_the_student_paces_itself(make: Any) -> None:
    objective = make(distance="kl", paces="image").objective()
    assert isinstance(objective, SelfPacedObjective)
    assert (objective.distance, objective.paces, objective.temperature) == ("kl", "image", 5)
    assert (objective.initial_age, objective.growth) == (2, 1e-4)


@pytest.mark.parametrize(
    ("size", "options", "count"),
    [
        (32, {"latent_dim": 512, "initial_multiplier": 4}, 8_776_259),
        (64, {"latent_dim": 1024, "initial_multiplier": 8, "blocks": 3}, 35_139_139),
    ],
)
def test_sizes_of_the_published_generators(size: int, options: Any, count: int) -> None:
    generator = Generator(image_size=size, **options)
    assert sum(p.numel() for p in generator.parameters()) == count
    assert generator(torch.randn(2, options["latent_dim"])).shape == (2, 3, size, size)
