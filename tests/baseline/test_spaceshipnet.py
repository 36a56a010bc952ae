import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from src.baseline import spaceshipnet
from src.baseline.spaceshipnet import SpaceshipNet, exchanged
from src.common import distributed
from src.common.augment import Augmentation, random_crop_flip
from src.common.errors import UserError
from src.network.convnet import ConvNet
from src.network.generator import Generator
from src.objective.class_activation import ClassActivationObjective
from src.objective.distillation import reads_maps
from src.substitution.contract import advance
from src.teacher.frozen import FrozenTeacher
from tests.reference.adam import Adam
from tests.reference.distillation import softmax
from tests.reference.fast import forward
from tests.reference.inversion import bn_layer
from tests.reference.sums import total

WEIGHTS = {"class_weight": 0.5, "bn_weight": 2.0}
KEPT = (0, 4, 8)  # of the generator's layers: first BN, and the ends of both blocks


@pytest.fixture
def spec(tiny_spec):
    """Images that are normalised to 2 u - 1 and not augmented."""
    half = (0.5, 0.5, 0.5)
    return replace(tiny_spec, mean=half, std=half, augmentation=Augmentation(0, 0.0))


@pytest.fixture
def make(spec):
    """Makes the method, with a teacher of the default dtype."""

    def build(num_classes=4, augmentation=spec.augmentation, **options):
        network = ConvNet([3, 4], num_classes=num_classes).train()
        with torch.no_grad():
            network(torch.randn(16, 3, 8, 8))
        defaults = {
            "generator": partial(Generator, latent_dim=5, base_width=2),
            "batch_size": 6,
            "steps": 3,
            "generator_lr": 0.01,
        }
        return SpaceshipNet(
            teacher=FrozenTeacher(network),
            spec=replace(spec, num_classes=num_classes, augmentation=augmentation),
            **(defaults | WEIGHTS | options),
        )

    return build


def literal_round(method, latents, rate):
    """Losses and maps of every step, and the parameters after the last."""
    generator, teacher = copy.deepcopy(method.generator).train(), method.teacher.network
    heard = {}
    for i in KEPT:
        generator.conv_blocks[i].register_forward_hook(
            lambda _, __, output, i=i: heard.__setitem__(i, output.detach().clone())
        )
    names = [name for name, _ in generator.named_parameters()]
    values, adam = [p.detach() for p in generator.parameters()], Adam([rate] * len(names))
    losses, maps = [], []
    for _ in range(method.steps):
        leaves = [value.clone().requires_grad_() for value in values]
        copied = dict(zip(names, leaves, strict=True))
        u = torch.func.functional_call(generator, copied, (latents,))
        logits, inputs = forward(teacher, 2 * u - 1)
        wanted = zip(logits, [0, 1, 2, 3, 0, 1], strict=True)
        loss = 0.5 * total(-softmax(row)[y].log() for row, y in wanted) / len(logits)
        loss = loss + 2.0 * total(bn_layer(x, bn.running_mean, bn.running_var) for bn, x in inputs)
        losses.append(loss.detach())
        maps.append([heard[i] for i in KEPT])
        values = adam.step(values, torch.autograd.grad(loss, leaves))
    return torch.stack(losses), maps, values


@pytest.mark.parametrize(("rate", "best"), [(0.01, 2), (10.0, 0)])
def test_two_rounds_equal_the_literal_transcription(float64, make, rate, best):
    method, found = make(generator_lr=rate), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses, maps, values = literal_round(method, torch.randn(6, 5), rate)
        torch.manual_seed(seed)
        terms = advance(method, None)
        weighted = sum(WEIGHTS[f"{name}_weight"] * term for name, term in terms.items())
        torch.testing.assert_close(weighted, losses[-1])
        found.append(int(losses.argmin()))
        for store, expected in zip(method.stores, maps[found[-1]], strict=True):
            torch.testing.assert_close(
                store.rows[-6:].double(), expected, rtol=1e-6, atol=1e-6
            )  # stored in single precision
        actual = [p.detach() for p in method.generator.parameters()]
        torch.testing.assert_close(actual, values, rtol=1e-6, atol=1e-8)
    assert best in found


def test_labels_of_two_ranks_are_those_of_one(make, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 1)  # the other has had 0, 1, 2, 3, 0, 1
    seen = []
    monkeypatch.setattr(
        spaceshipnet,
        "class_loss",
        lambda logits, labels: seen.append(labels.tolist()) or logits.sum(),
    )
    advance(make(steps=1), None)
    assert seen == [[2, 3, 0, 1, 2, 3]]


def test_maps_are_those_of_three_sizes(make):
    method = make()
    advance(method, None)
    assert [tuple(store.rows.shape) for store in method.stores] == [
        (6, 4, 2, 2),
        (6, 4, 4, 4),
        (6, 2, 8, 8),
    ]
    assert [store.dtype for store in make(half_maps=True).stores] == [torch.float16] * 3


def test_bytes_of_an_image_are_those_of_the_docstring():
    generator = Generator(image_size=32)
    made, sizes = torch.zeros(1, 256), []
    for part in generator.eval().parts()[:3]:
        made = part(made)
        sizes.append(made.nbytes)
    assert sizes == [32_768, 131_072, 262_144]
    assert sum(sizes) * 51_200 == pytest.approx(21.8e9, rel=1e-3)
    assert 4 * sum(sizes) * 102_400 == pytest.approx(174e9, rel=5e-3)


def test_first_classes_are_shown_once_more(make, monkeypatch):
    seen = []
    loss = spaceshipnet.class_loss
    monkeypatch.setattr(
        spaceshipnet, "class_loss", lambda t, y: seen.append(y.tolist()) or loss(t, y)
    )
    advance(make(num_classes=100, batch_size=256, steps=1), None)
    (labels,) = seen
    assert labels[:103] == [*range(100), 0, 1, 2]
    assert [labels.count(k) for k in range(100)] == [3] * 56 + [2] * 44


@pytest.mark.parametrize(("channels", "kept"), [(6, 3), (5, 2), (1, 0)])
def test_half_of_the_channels_stay_and_the_others_are_the_partner_s(channels, kept):
    maps = torch.randn(7, channels, 2, 2)
    mixed = exchanged(maps, torch.Generator().manual_seed(0))
    patterns = []
    for i in range(7):
        own = [torch.equal(mixed[i, c], maps[i, c]) for c in range(channels)]
        others = [torch.equal(mixed[i, c], maps[6 - i, c]) for c in range(channels)]
        if i == 3:  # its own partner
            assert all(own)
            continue
        assert own == [not other for other in others]
        assert sum(own) == kept
        patterns.append(own)
    assert channels == 1 or any(pattern != patterns[0] for pattern in patterns)


def test_every_channel_stays_equally_often():
    maps = torch.arange(2000.0).view(-1, 1, 1, 1).expand(-1, 8, 1, 1)
    kept = (exchanged(maps, torch.Generator().manual_seed(0)) == maps).float().mean(0)
    assert float((kept - 0.5).abs().max()) < 0.05


def fill(method, count=6):
    """Stores of maps that eval mode makes, and the pixels that belong to them."""
    method.generator.train()
    with torch.no_grad():
        for _ in range(3):  # statistics that are not the initial ones
            method.generator(torch.randn(8, 5))
        *maps, pixels = _through(method.generator.eval(), torch.randn(count, 5))
    for store, each in zip(method.stores, maps, strict=True):
        store.append(each)
    return maps, pixels


def _through(generator, latents):
    made = generator.l1(latents)
    for i, layer in enumerate(generator.conv_blocks):
        made = layer(made)
        if i in KEPT:
            yield made
    yield made


def test_maps_of_any_size_that_are_not_mixed_decode_to_their_images(make):
    method = make(exchange_probability=0.0)
    _, pixels = fill(method)
    method.generator.train()
    before = copy.deepcopy(method.generator.state_dict())
    for _ in range(12):
        images = (method.sample(5) + 1) / 2
        gaps = (images.unsqueeze(1) - pixels).abs().flatten(2).amax(2)
        assert float(gaps.amin(1).max()) < 1e-5
    assert method.generator.training
    assert all(torch.equal(v, before[k]) for k, v in method.generator.state_dict().items())


def test_mixed_maps_are_decoded_from_where_they_were_taken(make):
    method = make(exchange_probability=1.0)
    maps, _ = fill(method)
    levels = set()
    for seed in range(8):
        torch.manual_seed(seed)
        level = int(torch.randint(3, ()))
        torch.rand(())
        index = torch.randint(6, (4,))
        drawn = maps[level][index]
        order = torch.rand(4, drawn.shape[1]).argsort(1)
        made = drawn.clone()
        for i in range(4):
            for c in range(drawn.shape[1]):
                if order[i, c] >= drawn.shape[1] // 2:
                    made[i, c] = drawn[3 - i, c]
        with torch.no_grad():
            for layer in list(method.generator.eval().conv_blocks)[KEPT[level] + 1 :]:
                made = layer(made)
        torch.manual_seed(seed)
        torch.testing.assert_close(method.sample(4), 2 * made - 1)
        levels.add(level)
    assert levels == {0, 1, 2}


def test_seven_of_ten_batches_are_mixed(make, monkeypatch):
    method, mixed = make(), []
    fill(method)
    monkeypatch.setattr(
        spaceshipnet, "exchanged", lambda maps, _: mixed.append(maps.shape[-1]) or maps
    )
    for _ in range(500):
        method.sample(2)
    assert len(mixed) == pytest.approx(350, abs=40)
    assert [mixed.count(size) for size in (2, 4, 8)] == pytest.approx([117] * 3, abs=35)


def test_what_is_recorded_is_decoded_and_may_be_mixed(make):
    method = make(exchange_probability=0.0)
    _, pixels = fill(method)
    method.harvest(0)
    assert len(method.bank) == 0
    method.harvest(10)
    assert len(method.bank) == 10
    stored, made = method.bank.images.int(), (pixels * 255).floor().int()
    gaps = (stored.unsqueeze(1) - made).abs().flatten(2).amax(2)
    assert int(gaps.amin(1).max()) <= 1
    assert method.bank.augmentation == method.spec.augmentation


def test_what_is_sampled_is_augmented_anew_and_what_is_recorded_when_it_is_read(make):
    method = make(augmentation=Augmentation(2, 0.5), exchange_probability=0.0)
    pixels = torch.rand(6, 3, 8, 8)
    method._decode = lambda n: pixels[:n]
    draws = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    for _ in range(2):
        expected = random_crop_flip(pixels[:4], 2, 0.5, draws)
        torch.testing.assert_close(method.sample(4), 2 * expected - 1)
    assert not torch.equal(method.sample(4), method.sample(4))
    method.harvest(6)
    assert torch.equal(method.bank.images, (pixels * 255).floor().byte())
    index = torch.arange(6)
    first, second = (method.bank.batch(index, draws) for _ in range(2))
    assert not torch.equal(first, second)
    assert not torch.equal(first, method.bank.batch(index))


def test_what_is_recorded_is_mixed(make, monkeypatch):
    method, mixed = make(exchange_probability=1.0), []
    fill(method)
    monkeypatch.setattr(
        "src.baseline.spaceshipnet.exchanged", lambda maps, _: mixed.append(len(maps)) or maps
    )
    method.harvest(2 * method.batch_size + 1)
    assert mixed == [method.batch_size] * 3


def test_stores_in_files_give_the_same(make):
    outcomes = []
    for memory in (1.0, 0.0):
        torch.manual_seed(0)
        method = make(store_memory=memory)
        advance(method, None)
        outcomes.append(method.sample(5))
        assert method.stores[0]._is_mapped == (memory == 0)
    assert torch.equal(*outcomes)


def test_the_objective_compares_maps_unless_they_have_no_weight(make):
    for weight, compares in ((1.0, True), (0.0, False)):
        objective = make(attention_weight=weight).objective()
        assert isinstance(objective, ClassActivationObjective)
        assert objective.temperature == 30
        assert reads_maps(objective) == compares
        options = {"attention_weight": weight}
        assert SpaceshipNet.compares_maps(options) == SpaceshipNet.weighs_maps(options) == compares
    assert SpaceshipNet.compares_maps({})


def test_the_generator_starts_as_kaiming_says(make):
    method = make(generator=partial(Generator, latent_dim=64, base_width=64))
    norms = [m for m in method.generator.modules() if isinstance(m, nn.BatchNorm2d)]
    scales = torch.cat([norm.weight.detach() for norm in norms])
    assert float(scales.mean()) == pytest.approx(1, abs=0.005)
    assert float(scales.std()) == pytest.approx(0.02, rel=0.2)
    for name, parameter in method.generator.named_parameters():
        assert not (name.endswith("bias") and parameter.any())
    for layer in method.generator.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan_in = layer.weight[0].numel()
            assert float(layer.weight.detach().std()) == pytest.approx(
                (2 / fan_in) ** 0.5, rel=0.1
            )


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_generator_of_fewer_than_two_blocks_is_refused(make, blocks):
    small = partial(Generator, latent_dim=5, base_width=2, initial_multiplier=1, blocks=blocks)
    with pytest.raises(UserError, match=r"^Expected baseline.generator.blocks >= 2, .* Generator"):
        make(generator=small)
    assert len(make(generator=partial(small, blocks=2)).stores) == 3
    assert len(make(generator=partial(small, blocks=3)).stores) == 3


def test_teacher_and_student_see_the_training_transform(make):
    method, seen = make(), []
    method.spec = replace(method.spec, augmentation=lambda images, _: 0 * images)
    hook = method.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    advance(method, None)
    hook.remove()
    for images in (*seen, method.sample(5)):
        assert torch.equal(images, method.normalisation(torch.zeros_like(images)))
    assert len(seen) == method.steps
