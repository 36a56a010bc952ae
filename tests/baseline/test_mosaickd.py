import copy
import logging
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.optim import SGD, Adam

from src.baseline.mosaickd import MosaicKD
from src.common.augment import Augmentation
from src.network.convnet import ConvNet
from src.network.generator import Generator
from src.network.patch_discriminator import PatchDiscriminator
from src.objective.distillation import DistillationObjective
from src.student.companion import CompanionStudent
from src.substitution.contract import advance
from src.substitution.module import SubstitutionModule
from src.teacher.frozen import FrozenTeacher
from tests.reference.adam import Adam as LiteralAdam
from tests.reference.mosaickd import discriminator_step, generator_step
from tests.toys import NoisePool

LR, ROUNDS = 1e-2, 4
WEIGHTS = {"local": 0.5, "align": 2.0, "adversarial": 3.0, "balance": 10.0}


@pytest.fixture
def spec(tiny_spec):
    """Images that are normalised to 2 u - 1."""
    return replace(tiny_spec, mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture
def make(spec):
    """Makes the method, with a teacher of the default dtype."""

    def build(teacher=None, pool=None, spec=spec, **options):
        teacher = teacher or FrozenTeacher(ConvNet([3, 4], num_classes=spec.num_classes))
        defaults = {
            "generator": partial(Generator, latent_dim=3, base_width=2, initial_multiplier=1),
            "discriminator": partial(PatchDiscriminator, base_width=3),
            "optimizer": partial(Adam, lr=LR, betas=(0.5, 0.999)),
            "batch_size": 3,
            "total_rounds": ROUNDS,
        }
        defaults |= {f"{name}_weight": weight for name, weight in WEIGHTS.items()}
        return MosaicKD(
            teacher=teacher, spec=spec, pool=pool or NoisePool(), **(defaults | options)
        )

    return build


@pytest.fixture
def student(spec):
    return ConvNet([4, 8], num_classes=spec.num_classes)


def parameters(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def companion(student):
    return CompanionStudent(
        student,
        DistillationObjective(1.0),
        optimizer=partial(SGD, lr=0.1),
        scheduler=None,
        scheduler_steps=5,
        steps_per_round=5,
        batch_size=6,
    )


def test_two_rounds_equal_the_literal_transcription(float64, make, spec):
    method, student = make(), ConvNet([4, 8], num_classes=spec.num_classes)
    advance(make(), student)  # BN buffers that are not the initial ones
    generator, discriminator = method.generator, method.discriminator
    outer = [LiteralAdam([LR] * len(parameters(net))) for net in (generator, discriminator)]
    for index in range(2):
        rate = LR * (1 + math.cos(math.pi * index / ROUNDS)) / 2
        for adam in outer:
            adam.rates = [rate] * len(adam.rates)
        torch.manual_seed(index)
        latents = torch.randn(3, 3)
        chosen = method.pool.images[torch.randint(len(method.pool.images), (3,))]
        real = chosen.double() / 255 * 2 - 1
        copies = [copy.deepcopy(net) for net in (generator, discriminator, student)]
        fake = 2 * copies[0](latents) - 1
        d_loss, d_gradients = discriminator_step(copies[1], fake, real, WEIGHTS["local"])
        d_moved = outer[1].step(parameters(discriminator), d_gradients)
        names = [name for name, _ in discriminator.named_parameters()]
        g_terms, g_gradients = generator_step(
            copies[0],
            copies[1],
            dict(zip(names, d_moved, strict=True)),
            method.teacher.network,
            copies[2],
            latents,
            WEIGHTS,
        )
        g_moved = outer[0].step(parameters(generator), g_gradients)

        torch.manual_seed(index)
        terms = advance(method, student)

        torch.testing.assert_close(terms, g_terms | {"discriminator": d_loss})
        for net, gradients, moved in (
            (discriminator, d_gradients, d_moved),
            (generator, g_gradients, g_moved),
        ):
            actual = [parameter.grad for parameter in net.parameters()]
            torch.testing.assert_close(actual, gradients, rtol=1e-8, atol=1e-12)
            torch.testing.assert_close(parameters(net), moved, rtol=1e-6, atol=1e-9)


def test_an_undecided_discriminator_costs_64_ln_2(tiny_teacher, spec, make):
    spec32 = replace(spec, image_size=32)
    method = make()
    big = MosaicKD(
        teacher=tiny_teacher,
        spec=spec32,
        pool=Photos32(),
        generator=partial(Generator, latent_dim=3, base_width=2),
        discriminator=partial(PatchDiscriminator, base_width=2),
        optimizer=partial(Adam, lr=0.0),
        batch_size=2,
        total_rounds=2,
        **{f"{name}_weight": 1.0 for name in method.weights},
    )
    torch.nn.init.zeros_(big.discriminator.layers[-1].weight)
    terms = advance(big, None)
    assert terms["discriminator"].item() == pytest.approx(64 * math.log(2), rel=1e-5)
    assert terms["local"].item() == pytest.approx(64 * math.log(2), rel=1e-5)


class Photos32(NoisePool):
    def unlabeled(self, image_size):
        assert image_size == 32
        return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)


def test_balance_is_in_bits(make):
    method = make()
    torch.nn.init.zeros_(method.teacher.network.fc.weight)
    torch.nn.init.zeros_(method.teacher.network.fc.bias)
    terms = advance(method, None)
    assert terms["balance"].item() == pytest.approx(-2)  # four classes
    assert terms["align"].item() == pytest.approx(math.log(4))
    assert "adversarial" not in terms


def test_a_round_with_five_student_steps_moves_its_bn_buffers_six_times(make, student):
    method, other = make(), companion(student)
    module = SubstitutionModule(
        method, rounds=ROUNDS, num_images=4, record_from=0.0, log_every=1, companion=other
    )
    counter = student.stages[1].num_batches_tracked
    for rounds in (1, 2):
        module.training_step(None, 0)
        assert counter == 6 * rounds


def test_learning_rates_fall_once_a_round_to_zero(make, student):
    method, other = make(), companion(student)
    seen = []
    for _ in range(ROUNDS):
        seen.append([o.param_groups[0]["lr"] for o in method.optimizers().values()])
        advance(method, student)
        other.learn(method)
    expected = [LR * (1 + math.cos(math.pi * i / ROUNDS)) / 2 for i in range(ROUNDS)]
    torch.testing.assert_close(seen, [[rate, rate] for rate in expected])
    assert method.optimizers()["generator"].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_the_schedule_survives_saving(make, tmp_path):
    first, second = make(), make()
    advance(first, None)
    first.pool_bank.sync(tmp_path / "pool")
    second.load_state_dict(first.state_dict())
    second.pool_bank.restore(tmp_path / "pool")
    for method in (first, second):
        advance(method, None)
    rates = [method.optimizers()["generator"].param_groups[0]["lr"] for method in (first, second)]
    assert rates[0] == rates[1] < LR


def test_pool_images_of_discriminator_and_student_are_normalised_apart(make, spec):
    flat = NoisePool()
    flat.images = torch.full_like(flat.images, 51)
    method, seen = make(pool=flat), []
    hook = method.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    advance(method, None)
    hook.remove()
    real = seen[1]
    torch.testing.assert_close(real, torch.full_like(real, 2 * 0.2 - 1))
    inside = method.sample(6)[3:, :, 1:-1, 1:-1]  # augmentation pads with black
    for channel, (mean, std) in enumerate(zip(*flat.statistics, strict=True)):
        value = inside[:, channel]
        torch.testing.assert_close(value, torch.full_like(value, (0.2 - mean) / std))
    same = make(pool=flat, statistics="teacher", augment=False)
    advance(same, None)
    torch.testing.assert_close(same.sample(6)[3:], real)


def test_only_the_students_pool_images_are_augmented(make):
    assert make(augment=False).pool_bank.augmentation == Augmentation()
    bank = make().pool_bank
    assert bank.augmentation == Augmentation(1, 0.5)
    assert make().bank.augmentation == Augmentation()


def test_a_sample_is_half_generated_by_batch_statistics_and_half_of_the_pool(make):
    method = make(augment=False, statistics="teacher")
    advance(method, None)
    method.generator.eval()
    torch.manual_seed(1)
    images = method.sample(6)
    torch.manual_seed(1)
    with torch.no_grad():
        generated = method.normalisation(method.generator.train()(torch.randn(3, 3)))
    torch.testing.assert_close(images[:3], generated)
    stored = method.normalisation.from_uint8(method.pool.images)
    assert all(any(torch.equal(image, other) for other in stored) for image in images[3:])
    assert len(method.sample(5)) == 5


def test_harvest_records_exactly_what_is_asked_for(make):
    method = make()
    advance(method, None)
    method.harvest(7)
    synthetic, pool = method.substitution_data()
    assert (len(synthetic), len(pool)) == (7, 40)


def test_the_subset_is_what_the_teacher_is_least_sure_about(make):
    pool = NoisePool()
    pool.images[5] = pool.images[9] = pool.images[20]  # a tie keeps the order of the pool
    method = make(pool=pool, subset=39)
    with torch.no_grad():
        method.teacher.network.fc.weight *= 20
        probs = method.teacher(pool.images.float() / 255 * 2 - 1).logits.softmax(1)
    entropies = [-sum(p * math.log(p) for p in row) for row in probs.tolist()]
    order = sorted(range(40), key=lambda i: (-round(entropies[i], 5), i))
    advance(method, None)
    assert torch.equal(method.pool_bank.images, pool.images[order[:39]])


def test_without_a_subset_the_whole_pool_is_kept_in_its_order(make):
    method = make()
    advance(method, None)
    advance(method, None)
    assert torch.equal(method.pool_bank.images, method.pool.images)


def test_a_pool_smaller_than_the_subset_is_kept_whole(make, caplog):
    method = make(subset=100)
    with caplog.at_level(logging.WARNING):
        advance(method, None)
    assert len(method.pool_bank) == 40
    assert "40 images, 100 were asked for" in caplog.text


def test_certain_predictions_have_entropy_zero_and_come_last(make):
    pool = NoisePool()
    method = make(pool=pool, subset=40)
    with torch.no_grad():  # one class underflows for bright images
        method.teacher.network.fc.weight *= 1e4
    advance(method, None)
    assert torch.isfinite(method._entropies(pool.images)).all()


@pytest.mark.parametrize("subset", [None, 39])
def test_ranks_share_out_the_pool(make, monkeypatch, subset):
    whole = make(subset=subset)
    whole._read_pool()
    monkeypatch.setattr("src.baseline.mosaickd.world_size", lambda: 2)
    monkeypatch.setattr("src.baseline.mosaickd.on_rank_zero", lambda action: action())
    for rank in range(2):
        monkeypatch.setattr("src.baseline.mosaickd.rank", lambda rank=rank: rank)
        part = make(teacher=whole.teacher, pool=whole.pool, subset=subset)
        part._read_pool()
        assert torch.equal(part.pool_bank.images, whole.pool_bank.images[rank::2])


def test_pool_images_are_mirrored_even_where_the_data_set_s_are_not(make, spec):
    bank = make(spec=replace(spec, augmentation=Augmentation(1, 0.0))).pool_bank
    assert bank.augmentation == Augmentation(1, 0.5)


def test_what_is_recorded_is_made_in_whole_batches(make):
    method, sizes = make(), []
    method.generator.register_forward_hook(lambda *passed: sizes.append(len(passed[2])))
    method.harvest(7)
    assert sizes == [3, 3, 3]
