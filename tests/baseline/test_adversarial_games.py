"""ZSKT, DFAD and DFQ: one generator against the student."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.optim import SGD, Adam

from src.baseline.dfad import DFAD
from src.baseline.dfq import DFQ
from src.baseline.zskt import ZSKT
from src.network.convnet import ConvNet
from src.network.generator import DAFLGenerator, Generator
from src.objective.attention_transfer import AttentionTransferObjective, attention_distance
from src.objective.distillation import (
    DistillationObjective,
    LogitDistanceObjective,
    StudentOutput,
)
from src.student.companion import CompanionStudent
from src.student.step import plain_output
from src.substitution.contract import advance
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import tap
from tests.reference import inversion
from tests.reference.distillation import kl
from tests.reference.sums import total

WEIGHTS = {
    "adversarial_weight": 0.7,
    "bn_weight": 0.3,
    "one_hot_weight": 0.5,
    "balance_weight": 3.0,
}
WHITENING = partial(DAFLGenerator, latent_dim=3, base_width=2)


@pytest.fixture
def teacher(tiny_spec):
    return FrozenTeacher(ConvNet([3, 4], num_classes=tiny_spec.num_classes))


@pytest.fixture
def student(tiny_spec):
    return ConvNet([5], num_classes=tiny_spec.num_classes)


@pytest.fixture
def make(tiny_spec, teacher):
    """Makes one of the methods."""

    def build(method, **options):
        defaults = {
            "generator": partial(Generator, latent_dim=3, base_width=2),
            "optimizer": partial(SGD, lr=0.0),
            "batch_size": 4,
        }
        defaults |= {
            ZSKT: {},
            DFQ: WEIGHTS,
            DFAD: {"generator": WHITENING, "total_rounds": 10},
        }[method]
        return method(teacher=teacher, spec=tiny_spec, **(defaults | options))

    return build


def kl_of(student_logits, teacher_logits):
    rows = zip(student_logits, teacher_logits, strict=True)
    return total(kl(student, teacher, 1.0) for student, teacher in rows) / len(student_logits)


def distance_of(student_logits, teacher_logits):
    gaps = (student_logits - teacher_logits).flatten()
    return total(abs(gap) for gap in gaps) / len(gaps)


def literal(method, student):
    """Terms by their equations, of the images that the next round makes from seed 1."""
    torch.manual_seed(1)
    images = method.generator.train()(torch.randn(4, 3))
    if not isinstance(method, DFAD):
        images = method.normalisation(images)
    student.train(isinstance(method, DFAD))
    with tap(method.teacher) as heard:
        logits = method.teacher(images).logits
        layers = list(heard.inputs)
    if isinstance(method, DFAD):
        return {"adversarial": -distance_of(student(images), logits)}
    terms = {"adversarial": -kl_of(student(images), logits)}
    if isinstance(method, DFQ):
        bns = [m for m in method.teacher.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        gaps = [
            inversion.norm(x.mean((0, 2, 3)) - bn.running_mean)
            + inversion.norm(x.var((0, 2, 3), correction=0) - bn.running_var)
            for x, bn in zip(layers, bns, strict=True)
        ]
        terms["bn"] = total(gaps)
        terms["one_hot"] = inversion.one_hot(logits)
        terms["balance"] = inversion.balance(logits, torch.e)
    return terms


@pytest.mark.parametrize("method", [ZSKT, DFAD, DFQ])
def test_losses_and_gradient_equal_the_literal_ones(float64, make, method, student):
    method = make(method)
    expected = literal(method, student)
    weights = {name: WEIGHTS[f"{name}_weight"] if len(expected) > 1 else 1 for name in expected}
    loss = sum(weights[name] * term for name, term in expected.items())
    parameters = list(method.generator.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    torch.manual_seed(1)
    terms = advance(method, student)
    torch.testing.assert_close(terms, {name: term.detach() for name, term in expected.items()})
    torch.testing.assert_close(
        [p.grad for p in parameters], list(gradients), rtol=1e-8, atol=1e-11
    )


@pytest.mark.parametrize("method", [ZSKT, DFAD])
def test_nothing_moves_without_a_student(make, method):
    method = make(method, optimizer=partial(Adam, lr=0.1))
    before = [parameter.clone() for parameter in method.generator.parameters()]
    assert advance(method, None)["adversarial"] == 0
    torch.testing.assert_close(list(method.generator.parameters()), before, rtol=0, atol=0)


@pytest.mark.parametrize("method", [ZSKT, DFAD, DFQ])
def test_the_generator_learns_to_part_the_two(make, method, student):
    method = make(method, optimizer=partial(Adam, lr=0.01), batch_size=64)
    found = [float(advance(method, student)["adversarial"]) for _ in range(40)]
    assert sum(found[-5:]) < sum(found[:5])


def test_zskt_transfers_attention_where_it_has_a_weight(make):
    assert isinstance(make(ZSKT).objective(), DistillationObjective)
    objective = make(ZSKT, attention_weight=250.0, temperature=2.0).objective()
    assert isinstance(objective, AttentionTransferObjective)
    assert (objective.weight, objective.temperature) == (250, 2)
    assert [ZSKT.compares_maps({"attention_weight": w}) for w in (0.0, 250.0)] == [False, True]


def test_attention_transfer_draws_the_student_s_attention_to_the_teacher_s(
    make, tiny_spec, teacher
):
    distances = {}
    for weight in (0.0, 250.0):
        torch.manual_seed(0)
        method = make(ZSKT, attention_weight=weight, batch_size=32)
        network = ConvNet([3, 4], num_classes=tiny_spec.num_classes)
        companion = CompanionStudent(
            network,
            method.objective(),
            optimizer=partial(Adam, lr=0.01),
            scheduler=None,
            scheduler_steps=1,
            steps_per_round=40,
            batch_size=32,
        )
        companion.learn(method)
        images = method.sample(64)
        with torch.no_grad():
            mine = plain_output(network.eval(), images, with_maps=True).maps
            its = teacher(images, with_maps=True).maps
        distances[weight] = float(attention_distance(mine, its))
    assert distances[250.0] < 0.5 * distances[0.0]


def test_the_rate_of_dfad_falls_to_a_tenth_twice(make, student):
    method = make(DFAD, optimizer=partial(SGD, lr=1.0), decay_after=[0.2, 0.4])
    rates = []
    for _ in range(10):
        rates.append(method.optimizer.param_groups[0]["lr"])
        advance(method, student)
    assert rates == pytest.approx([1] * 2 + [0.1] * 2 + [0.01] * 6)
    again = make(DFAD, optimizer=partial(SGD, lr=1.0), decay_after=[0.2, 0.4])
    again.load_state_dict(method.state_dict())
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert again.schedule.last_epoch == 10


def test_the_student_of_dfad_lowers_the_distance_of_the_logits(float64):
    student, teacher = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    loss = LogitDistanceObjective()(StudentOutput(student, student), teacher)
    torch.testing.assert_close(loss, distance_of(student, teacher))
    loss.backward()
    torch.testing.assert_close(student.grad, torch.sign(student - teacher).detach() / 12)
    assert teacher.grad is None


def test_images_of_dfad_are_whitened_and_those_of_the_others_pixels(make):
    for method, dtype in ((DFAD, torch.float16), (ZSKT, torch.uint8), (DFQ, torch.uint8)):
        made = make(method)
        made.harvest(5)
        assert made.bank.images.dtype == dtype
    images = make(DFAD).sample(64)
    assert images.mean((0, 2, 3)).abs().max() < 1e-4
    assert (images.var((0, 2, 3), correction=0) - 1).abs().max() < 0.01


@pytest.mark.parametrize(("eps", "latent_dim", "count"), [(1e-5, 256, 2_329_091)])
def test_size_of_the_generator_of_dfad(eps, latent_dim, count):
    generator = DAFLGenerator(image_size=32, latent_dim=latent_dim, eps=eps)
    assert sum(p.numel() for p in generator.parameters()) == count
    assert {m.eps for m in generator.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {eps}


def test_size_of_the_generator_of_zskt_and_dfq():
    generator = Generator(image_size=32, latent_dim=256, initial_multiplier=4)
    assert sum(p.numel() for p in generator.parameters()) == 4_581_955


def test_a_student_in_train_mode_normalises_by_the_batch(make, student):
    student.train()
    counters = [m for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for method, moved in ((ZSKT, False), (DFQ, False), (DFAD, True)):
        before = [int(layer.num_batches_tracked) for layer in counters]
        advance(make(method), student)
        after = [int(layer.num_batches_tracked) for layer in counters]
        assert all((b < a) == moved for b, a in zip(before, after, strict=True))


def test_latents_are_fresh_in_every_round_and_sample(make, student):
    method = make(ZSKT)
    batches = [method.sample(4) for _ in range(3)]
    assert not any(torch.equal(left, right) for left, right in pairwise(batches))
