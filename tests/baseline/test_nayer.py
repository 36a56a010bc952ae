import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from src.baseline import nayer
from src.baseline.nayer import NAYER
from src.common import distributed
from src.common.augment import Augmentation
from src.common.errors import UserError
from src.network.convnet import ConvNet
from src.network.generator import DeepGenerator, Generator
from src.substitution.contract import advance
from src.teacher.frozen import FrozenTeacher
from tests.reference.adam import Adam
from tests.reference.adversarial import decision_disagreement
from tests.reference.distillation import softmax
from tests.reference.fast import forward, mix
from tests.reference.inversion import bn_layer
from tests.reference.sums import total

RATE, MOMENTUM = 0.01, 0.9
WEIGHTS = {"class_weight": 0.5, "bn_weight": 10.0, "adversarial_weight": 1.3}


@pytest.fixture
def spec(tiny_spec):
    """Images that are normalised to 2 u - 1 and not augmented."""
    half = (0.5, 0.5, 0.5)
    return replace(tiny_spec, mean=half, std=half, augmentation=Augmentation(0, 0.0))


@pytest.fixture
def make(spec):
    """Makes the method, with a teacher of the default dtype."""

    def build(**options):
        network = ConvNet([3, 4], num_classes=spec.num_classes).train()
        with torch.no_grad():
            network(torch.randn(16, 3, 8, 8))
        defaults = {
            "generator": partial(Generator, latent_dim=5, base_width=2, initial_multiplier=1),
            "batch_size": 6,  # a set of four classes, and two images more
            "inner_steps": 3,
            "generator_lr": RATE,
            "loops": 1,
            "warmup_loops": 1,
            "warmup_rounds": 0,
        }
        return NAYER(teacher=FrozenTeacher(network), spec=spec, **(defaults | WEIGHTS | options))

    return build


def latents(method, rows, labels, weights, biases):
    """Embeddings, normalised over the batch, through the layer of their set of classes."""
    scale, shift = rows
    table = method.embeddings[labels]
    mean = table.mean(0)
    var = ((table - mean) ** 2).mean(0)
    seen = (table - mean) / (var + 1e-5) ** 0.5 * scale + shift
    layers = [i // method.spec.num_classes for i in range(len(labels))]
    found = [weights[j] @ e + biases[j, 0] for j, e in zip(layers, seen, strict=True)]
    return torch.stack(found)


def literal_batch(method, student, labels, weights, biases, previous):
    """Images and weighted losses of every step, and the mixed moments of the last."""
    generator, teacher = copy.deepcopy(method.generator), method.teacher.network
    names = [name for name, _ in generator.named_parameters()]
    own = [*generator.parameters(), *method.norm.parameters(), weights, biases]
    values, adam = [p.detach() for p in own], Adam([RATE] * len(own))
    losses, pixels = [], []
    for _ in range(method.inner_steps):
        leaves = [value.clone().requires_grad_() for value in values]
        copied = dict(zip(names, leaves, strict=False))
        z = latents(method, leaves[-4:-2], labels, *leaves[-2:])
        u = torch.func.functional_call(generator, copied, (z,))
        logits, heard = forward(teacher, 2 * u - 1)
        wanted = zip(logits, labels, strict=True)
        loss = 0.5 * total(-softmax(row)[y].log() for row, y in wanted) / len(labels)
        for i, (bn, inputs) in enumerate(heard):
            old = previous[i] if previous else None
            distance = bn_layer(inputs, bn.running_mean, bn.running_var, MOMENTUM, old)
            loss = loss + 10.0 * distance
        if student is not None:
            loss = loss + 1.3 * decision_disagreement(student(2 * u - 1), logits)
        losses.append(loss.detach())
        pixels.append(u.detach())
        values = adam.step(values, torch.autograd.grad(loss, leaves))
    moments = [
        mix(inputs, MOMENTUM, previous[i] if previous else None)
        for i, (_, inputs) in enumerate(heard)
    ]
    return losses, pixels, moments, values


def test_two_rounds_equal_the_literal_transcription(float64, make):
    method = make(renew_every=100)
    method._renew = lambda: None  # draws nothing, so that the same seed gives the same layers
    student = copy.deepcopy(method.teacher.network)
    student.fc.weight *= 2
    previous = None
    for seed in (1, 2):
        torch.manual_seed(seed)
        labels, (weights, biases) = method._labels(), method._noise()
        losses, pixels, moments, values = literal_batch(
            method, student, labels, weights.detach(), biases.detach(), previous
        )
        torch.manual_seed(seed)
        terms = advance(method, student)
        weighted = sum(WEIGHTS[f"{name}_weight"] * term for name, term in terms.items())
        torch.testing.assert_close(weighted, losses[-1])
        best = (pixels[int(torch.stack(losses).argmin())] * 255).floor()
        assert (method.bank.images[-6:].double() - best).abs().max() <= 1
        actual = [*method.generator.parameters(), *method.norm.parameters()]
        expected = values[: len(actual)]
        torch.testing.assert_close([p.detach() for p in actual], expected, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(method.smoothed.mean, torch.cat([m for m, _ in moments]))
        torch.testing.assert_close(method.smoothed.var, torch.cat([v for _, v in moments]))
        previous = moments


def test_every_set_of_classes_has_a_layer_of_its_own(make):
    for size, layers in ((4, 1), (5, 2), (8, 2), (3, 1)):
        method = make(batch_size=size)
        weights, biases = method._noise()
        assert weights.shape == (layers, 5, method.embeddings.shape[1])
        assert biases.shape == (layers, 1, 5)
    labels = make(batch_size=10)._labels().tolist()
    assert labels[:8] == [0, 1, 2, 3] * 2
    assert len(labels) == 10


@pytest.mark.parametrize(
    ("size", "first", "second"), [(4, [0, 1, 2, 3], [0, 1, 2, 3]), (2, [0, 1], [2, 3])]
)
def test_two_ranks_deal_out_the_sets_of_one(make, monkeypatch, size, first, second):
    monkeypatch.setattr(nayer, "world_size", lambda: 2)
    for index, expected in enumerate((first, second)):
        for module in (distributed, nayer):
            monkeypatch.setattr(module, "rank", lambda index=index: index)
        assert make(batch_size=size)._labels().tolist() == expected


def test_what_remains_of_all_ranks_is_random(make, monkeypatch):
    monkeypatch.setattr(nayer, "world_size", lambda: 2)
    for module in (distributed, nayer):
        monkeypatch.setattr(module, "rank", lambda: 1)
    labels = make(batch_size=5)._labels().tolist()  # 5, 6, 7 of two sets, and two more
    assert labels[:3] == [1, 2, 3]
    assert len(labels) == 5
    assert all(0 <= label < 4 for label in labels)


def test_noise_is_standard_normal_and_new_for_every_batch(make):
    method = make(generator=partial(Generator, latent_dim=400, base_width=2), embedding="one_hot")
    first, second = (method._noise()[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert float(first.detach().std()) == pytest.approx(1, abs=0.05)
    assert not method._noise()[1].any()


def test_the_warm_up_has_batches_of_its_own_number_and_no_adversary(make, spec):
    method = make(warmup_rounds=2, loops=2, warmup_loops=3)
    student = ConvNet([4, 8], num_classes=spec.num_classes)
    found, sizes = [], []
    for _ in range(3):
        before = len(method.bank)
        found.append("adversarial" in advance(method, student))
        sizes.append(len(method.bank) - before)
    assert found == [False, False, True]
    assert sizes == [18, 18, 12]
    assert method.most_recorded(
        {"batch_size": 6, "loops": 2, "warmup_loops": 3}, type("E", (), {"rounds": 3})
    ) == {"the rounds of stage (a)": 54}


def test_the_generator_starts_anew_in_time(make):
    method = make(renew_every=2)
    before = []
    for _ in range(4):
        advance(method, None)
        before.append([p.detach().clone() for p in method.generator.parameters()])
        counts = {
            int(m.num_batches_tracked)
            for m in method.generator.modules()
            if isinstance(m, nn.BatchNorm2d)
        }
        assert counts == {3 * (1 + (len(before) - 1) % 2)}
    moved = [float((before[i + 1][0] - before[i][0]).abs().max()) for i in range(3)]
    reach = 3 * RATE * 1.5  # of three steps of Adam
    assert moved[0] < reach < moved[1]
    assert moved[2] < reach


def test_the_generator_starts_anew_after_the_warm_up_too(make, monkeypatch):
    method, renewed = make(warmup_rounds=2, renew_every=3), []
    monkeypatch.setattr(method, "_renew", lambda: renewed.append(method.round))
    for _ in range(9):
        advance(method, None)
    assert renewed == [0, 2, 3, 5, 6, 8]


@pytest.mark.parametrize("wrap", [lambda network: network, nn.Sequential])
@pytest.mark.parametrize("training", [True, False])
def test_the_student_is_in_eval_mode_for_the_first_batch_of_a_round(make, spec, wrap, training):
    method = make(warmup_rounds=1, loops=2, warmup_loops=2)
    student = wrap(ConvNet([4, 8], num_classes=spec.num_classes)).train(training)
    layers = [layer for layer in student.modules() if isinstance(layer, nn.BatchNorm2d)]
    layers[0].train(not training)
    modes, before = [], [module.training for module in student.modules()]
    student.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    for batches in (0, 1, 2):  # none of the warm-up
        assert {int(layer.num_batches_tracked) for layer in layers} == {3 * max(0, batches - 1)}
        advance(method, student)
        assert [module.training for module in student.modules()] == before
    assert modes == [False] * 3 + [True] * 3 + [False] * 3 + [True] * 3


def test_a_generator_of_other_latents_than_vectors_is_refused(make):
    deep = partial(DeepGenerator, latent_dim=5, base_width=2)
    said = r"^Expected baseline.generator .* but got DeepGenerator with latents \[5, 1, 1\]; take "
    with pytest.raises(UserError, match=said):
        make(generator=lambda **given: deep(**given | {"image_size": 16}))


def test_embeddings(make, tmp_path):
    rows = make().embeddings
    head = make().teacher.network.head.weight
    assert rows.shape == head.shape
    torch.testing.assert_close(rows.mean(0), torch.zeros(rows.shape[1]))
    assert torch.equal(make(embedding="one_hot").embeddings, torch.eye(4))
    path = tmp_path / "rows.npy"
    stored = np.arange(12, dtype=np.float16).reshape(4, 3)
    np.save(path, stored)
    found = make(embedding=str(path)).embeddings
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), stored)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((3, 5), np.float32), r"to hold 4 rows .* but got float32 \[3, 5\]"),
        (np.zeros(4, np.float32), r"but got float32 \[4\]"),
        (np.full((4, 2), np.nan), r"finite numbers"),
        (np.array([["a"]] * 4), r"but got <U1 \[4, 1\]"),
    ],
)
def test_a_file_of_something_else_is_refused(make, tmp_path, rows, said):
    path = tmp_path / "rows.npy"
    np.save(path, rows)
    with pytest.raises(UserError, match=said):
        make(embedding=str(path))


def test_a_missing_or_pickled_file_is_refused(make, tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.array([{}] * 4), allow_pickle=True)
    with pytest.raises(UserError, match=r"Cannot read baseline.embedding='.*rows.npy'"):
        make(embedding=str(path))
    with pytest.raises(UserError, match=r"no regular file.*teacher_head, one_hot or an .npy file"):
        make(embedding="clip")


@pytest.mark.parametrize(("num_classes", "count"), [(100, 10_476_771), (10, 28_944_771)])
def test_number_of_parameters_as_published(spec, tmp_path, num_classes, count):
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((num_classes, 512), np.float32))
    teacher = FrozenTeacher(ConvNet([3], num_classes=num_classes))
    method = NAYER(
        teacher=teacher,
        spec=replace(spec, num_classes=num_classes, image_size=32),
        generator=partial(Generator, latent_dim=1000),
        batch_size=400,
        inner_steps=1,
        generator_lr=0.1,
        embedding=str(path),
        **WEIGHTS,
    )
    own = [*method.generator.parameters(), *method.norm.parameters(), *method._noise()]
    assert sum(p.numel() for p in own) == count


def test_the_teacher_sees_the_training_transform(make):
    method, seen = make(), []
    method.spec = replace(method.spec, augmentation=lambda images, _: 0 * images)
    hook = method.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    advance(method, None)
    hook.remove()
    assert len(seen) == method.inner_steps
    assert all(torch.equal(images, -torch.ones(6, 3, 8, 8)) for images in seen)
    assert method.bank.images.float().std() > 1  # stored as they were


def test_the_norm_of_the_embeddings_starts_anew_with_the_generator(make):
    method = make(renew_every=2)
    for _ in range(3):
        advance(method, None)
    assert int(method.norm.num_batches_tracked) == 3
