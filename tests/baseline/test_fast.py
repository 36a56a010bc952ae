import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from src import naming
from src.baseline.fast import Fast
from src.common import package
from src.common.augment import Augmentation
from src.common.errors import UserError
from src.config.value import check_value, hints_of
from src.network.convnet import ConvNet
from src.network.generator import DeepGenerator, Generator
from src.objective.inversion import BNStatistics
from src.substitution.contract import advance
from src.teacher.frozen import FrozenTeacher
from tests.reference.adam import Adam
from tests.reference.fast import meta_round

RATES = {"generator_lr": 0.01, "latent_lr": 0.02}
WEIGHTS = {"class_weight": 0.5, "bn_weight": 10.0, "adversarial_weight": 1.3}


def small_generator(**options):
    return Generator(latent_dim=3, base_width=2, initial_multiplier=1, **options)


def deep_generator(**options):
    return DeepGenerator(latent_dim=2, base_width=2, **options)


@pytest.fixture
def spec(tiny_spec):
    """Images that are normalised to 2 u - 1 and not augmented."""
    half = (0.5, 0.5, 0.5)
    return replace(tiny_spec, mean=half, std=half, augmentation=Augmentation(0, 0.0))


@pytest.fixture
def make(spec):
    """Makes the method, with a teacher of the default dtype."""

    def build(spec=spec, teacher=None, **options):
        if teacher is None:
            network = ConvNet([3, 4], num_classes=spec.num_classes).train()
            with torch.no_grad():
                network(torch.randn(16, 3, 8, 8))
            teacher = FrozenTeacher(network)
        defaults = {"generator": small_generator, "batch_size": 3, "inner_steps": 3}
        defaults |= RATES | WEIGHTS | {"warmup_rounds": 0, "reset_after": None}
        return Fast(teacher=teacher, spec=spec, **(defaults | options))

    return build


def student_of(spec):
    return ConvNet([4, 8], num_classes=spec.num_classes).eval()


def parameters(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def draws(method, seed):
    """What a round that starts from ``seed`` draws: latents, then labels."""
    torch.manual_seed(seed)
    latents = torch.randn(method.batch_size, *method.generator.latent_shape)
    labels = torch.randint(method.spec.num_classes, (method.batch_size,))
    torch.manual_seed(seed)
    return latents, labels


def reference_round(method, student, seed, previous=None):
    latents, labels = draws(method, seed)
    return meta_round(
        copy.deepcopy(method.generator),
        method.teacher.network,
        student,
        latents,
        labels,
        steps=method.inner_steps,
        rates=(RATES["generator_lr"], RATES["latent_lr"]),
        weights=tuple(WEIGHTS.values()),
        momentum=0.9,
        previous=previous,
    )


def best_pixels(expected):
    return expected.pixels[int(torch.stack(expected.losses).argmin())]


def test_two_rounds_equal_the_literal_transcription(float64, make):
    method = make()
    student = copy.deepcopy(method.teacher.network)  # agrees, so that the mask lets it through
    student.fc.weight *= 2
    outer = Adam([3 * RATES["generator_lr"]] * len(parameters(method.generator)))
    previous = None
    for seed in (1, 2):
        before = parameters(method.generator)
        expected = reference_round(method, student, seed, previous)
        terms = advance(method, student)
        assert terms["adversarial"] < 0
        gradients = [parameter.grad for parameter in method.generator.parameters()]
        torch.testing.assert_close(gradients, expected.meta_gradient, rtol=1e-8, atol=1e-10)
        moved = outer.step(before, expected.meta_gradient)
        torch.testing.assert_close(parameters(method.generator), moved, rtol=1e-6, atol=1e-8)
        weighted = sum(WEIGHTS[f"{name}_weight"] * term for name, term in terms.items())
        torch.testing.assert_close(weighted, expected.losses[-1])
        stored = method.bank.images[-method.batch_size :].double()
        assert (stored - (best_pixels(expected) * 255).floor()).abs().max() <= 1
        torch.testing.assert_close(
            method.smoothed.mean, torch.cat([m for m, _ in expected.moments])
        )
        torch.testing.assert_close(
            method.smoothed.var, torch.cat([v for _, v in expected.moments])
        )
        previous = expected.moments


def test_reptile_moves_towards_the_adapted_copy(float64, make):
    method = make(meta="reptile")
    before = parameters(method.generator)
    expected = reference_round(method, None, 3)
    advance(method, None)
    gradients = [67 * (old - new) for old, new in zip(before, expected.adapted, strict=True)]
    actual = [parameter.grad for parameter in method.generator.parameters()]
    torch.testing.assert_close(actual, gradients, rtol=1e-6, atol=1e-8)
    moved = Adam([3 * RATES["generator_lr"]] * len(before)).step(before, gradients)
    torch.testing.assert_close(parameters(method.generator), moved, rtol=1e-6, atol=1e-8)


def test_without_meta_learning_the_generator_itself_is_adapted(float64, make):
    method = make(meta="none")
    expected = reference_round(method, None, 4)
    advance(method, None)
    torch.testing.assert_close(
        parameters(method.generator), expected.adapted, rtol=1e-6, atol=1e-8
    )
    assert method.optimizers() == {}


def test_one_inner_step_leaves_the_gradient_at_the_meta_generator(float64, make):
    method = make(inner_steps=1)
    expected = reference_round(method, None, 5)
    advance(method, None)
    actual = [parameter.grad for parameter in method.generator.parameters()]
    torch.testing.assert_close(actual, expected.meta_gradient, rtol=1e-8, atol=1e-10)


def test_outer_adam_counts_rounds_and_steps_k_times_as_far(make):
    method = make(inner_steps=4)
    assert method.meta_optimizer.param_groups[0]["lr"] == 4 * RATES["generator_lr"]
    assert make(meta_lr=0.5).meta_optimizer.param_groups[0]["lr"] == 0.5
    for count in (1, 2, 3):
        advance(method, None)
        assert {int(state["step"]) for state in method.meta_optimizer.state.values()} == {count}


def test_inner_adam_starts_afresh_in_every_round(make, monkeypatch):
    made = []
    original = Fast._inner_optimizer

    def remember(self, *args):
        made.append(original(self, *args))
        assert not made[-1].state
        return made[-1]

    monkeypatch.setattr(Fast, "_inner_optimizer", remember)
    method = make()
    for _ in range(2):
        advance(method, None)
    counts = [{int(state["step"]) for state in optimizer.state.values()} for optimizer in made]
    assert counts == [{3}, {3}]


def test_the_meta_generator_is_never_run_itself(make):
    method = make()
    before = {name: value.clone() for name, value in method.generator.named_buffers()}
    advance(method, None)
    after = dict(method.generator.named_buffers())
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_copying_the_generator_draws_no_random_number(make):
    method = make()
    draws(method, 6)
    torch.randn(method.batch_size, 3), torch.randint(4, (method.batch_size,))
    expected = torch.rand(1)
    torch.manual_seed(6)
    advance(method, None)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("keep", "index"), [("best", 0), ("last", 2)])
def test_which_iterate_is_stored(make, monkeypatch, keep, index):
    method, seen = make(keep=keep), []
    values = iter([10.0, 30.0, 20.0])

    def terms(pixels, *_):
        seen.append(pixels.detach())
        loss = {"class": pixels.mean() + next(values)}
        return loss, BNStatistics(torch.zeros(1), torch.ones(1))

    monkeypatch.setattr(method, "_terms", terms)
    advance(method, None)
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(method.bank.images, (seen[index] * 255).floor().byte())


def test_the_student_enters_in_the_last_round_of_the_warm_up(make, spec):
    method, student = make(warmup_rounds=3), student_of(spec)
    heard = ["adversarial" in advance(method, student) for _ in range(4)]
    assert heard == [False, False, True, True]
    assert "adversarial" not in advance(method, None)


def test_a_weight_of_zero_spares_the_student(make):
    class Refuses(nn.Module):
        def forward(self, images):
            raise AssertionError

    advance(make(adversarial_weight=0.0), Refuses())


def test_first_layers_are_drawn_anew_once(make):
    method = make(warmup_rounds=2, reset_after=1, generator_lr=1e-12, latent_lr=1e-12)
    linear, norm = method.generator.l1[0], method.generator.conv_blocks[0]
    others = method.generator.conv_blocks[2].weight.clone()
    with torch.no_grad():
        for layer in (linear, norm):
            layer.weight.fill_(5.0)
            layer.bias.fill_(5.0)
    for after in (5.0, 5.0, 0.0, 0.0):
        advance(method, None)
        for layer in (linear, norm):
            for value in (layer.weight, layer.bias):
                torch.testing.assert_close(value.mean().item(), after, atol=0.1, rtol=0)
    assert 0.005 < linear.weight.std() < 0.035
    assert linear.bias.abs().max() < 1e-6
    kept = linear.weight.clone()
    advance(method, None)
    torch.testing.assert_close(linear.weight, kept, atol=1e-6, rtol=0)
    torch.testing.assert_close(method.generator.conv_blocks[2].weight, others, atol=1e-6, rtol=0)


def test_layers_that_are_drawn_anew_are_as_small_as_released(make):
    wide = partial(Generator, latent_dim=64, base_width=8)
    method = make(generator=wide, warmup_rounds=1, reset_after=0, generator_lr=1e-12)
    advance(method, None)
    projection = method.generator.l1[0].weight.detach()
    assert float(projection.mean()) == pytest.approx(0, abs=1e-3)
    assert float(projection.std()) == pytest.approx(0.02, rel=0.02)


def test_without_meta_learning_nothing_is_drawn_anew(make):
    method = make(meta="none", reset_after=0, generator_lr=1e-12)
    before = parameters(method.generator)
    method.warmup_rounds = 1
    advance(method, None)
    torch.testing.assert_close(parameters(method.generator), before)


def test_drawing_anew_needs_a_generator_with_such_layers(make, spec):
    with pytest.raises(UserError, match=r"reset_after=120, but got DeepGenerator"):
        make(replace(spec, image_size=16), generator=deep_generator, reset_after=120)


class TestImageNetVariant:
    @pytest.fixture
    def method(self, make, spec):
        return make(
            replace(spec, image_size=16),
            generator=deep_generator,
            meta="reptile",
            keep="last",
            reinit_every=3,
            crop_scale=(0.75, 1.0),
        )

    def test_latents_are_carried_on_and_redrawn(self, method):
        seen = []
        for _ in range(4):
            advance(method, None)
            seen.append(method.latents.clone())
        steps = [(new - old).abs().max() for old, new in pairwise(seen)]
        within = method.inner_steps * RATES["latent_lr"] * 1.5
        assert 0 < steps[0] < within
        assert 0 < steps[1] < within
        assert steps[2] > within
        assert not method.latents.requires_grad

    def test_the_outer_adam_is_renewed_with_the_latents(self, method):
        counts = []
        for _ in range(4):
            advance(method, None)
            counts.append({int(s["step"]) for s in method.optimizers()["meta"].state.values()})
        assert counts == [{1}, {2}, {3}, {1}]

    def test_latents_travel_with_the_state(self, method, make, spec):
        advance(method, None)
        assert torch.equal(method.state_dict()["latents"], method.latents)


def test_only_the_view_of_the_teacher_is_augmented(make, tiny_spec):
    method, seen = make(tiny_spec, keep="last", inner_steps=1), []
    method.view = lambda pixels, _: 0 * pixels
    hook = method.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    advance(method, None)
    hook.remove()
    black = method.normalisation(torch.zeros(3, 3, 8, 8))
    assert torch.equal(seen[0], black)
    assert method.bank.images.float().std() > 1


def test_students_see_the_training_transform(make, tiny_spec):
    for crop_scale in (None, (0.75, 1.0)):
        method = make(tiny_spec, crop_scale=crop_scale)
        assert method.bank.augmentation == Augmentation(1, 0.5)
        assert method.view == Augmentation(1, 0.5, crop_scale)  # of the teacher


def test_smoothed_statistics_survive_saving(make):
    first, second = make(), make()
    advance(first, None)
    second.load_state_dict(first.state_dict())
    assert second.round == 1
    assert torch.equal(second.smoothed.mean, first.smoothed.mean)
    assert torch.equal(second.smoothed.var, first.smoothed.var)


def test_published_rates_follow_the_number_of_inner_steps_and_the_pair():
    overrides = ["baseline=fast", "dataset=cifar10", "baseline.inner_steps=10"]
    with initialize_config_dir(str(package.CONF), version_base="1.3"):
        node = naming.resolved(compose("config", overrides))["baseline"]
    assert (node["generator_lr"], node["latent_lr"]) == (2e-3, 0.01)
    assert (node["class_weight"], node["adversarial_weight"]) == (0.5, 1.33)


def test_first_layers_that_are_drawn_anew_are_those_of_all_ranks(make, monkeypatch):
    sent = []
    monkeypatch.setattr("src.baseline.fast.broadcast_module", sent.append)
    method = make(warmup_rounds=1, reset_after=1)
    for count in (0, 1, 1):
        advance(method, None)
        assert len(sent) == count
    assert sent[0] is method.generator


@pytest.mark.parametrize(("meta", "calls"), [("none", 3), ("maml", 1), ("reptile", 1)])
def test_gradients_of_all_ranks_are_averaged_before_the_shared_generator_moves(
    make, monkeypatch, meta, calls
):
    averaged = []
    monkeypatch.setattr(
        "src.baseline.fast.average_gradients", lambda own: averaged.append(list(own))
    )
    method = make(meta=meta, inner_steps=3, reset_after=None)
    advance(method, None)
    own = list(method.generator.parameters())
    assert len(averaged) == calls
    assert all(a is b for each in averaged for a, b in zip(each, own, strict=True))


@pytest.mark.parametrize("scale", [[2.0, 3.0], [-1.0, 3.0], [0, 0], [1.0, 0.25], [0.5, 1.5]])
def test_areas_of_the_crop_are_shares_of_the_image(scale):
    hint = hints_of(Fast)["crop_scale"]
    with pytest.raises(UserError, match=r"'x': expected .* 0 < least <= greatest <= 1"):
        check_value("x", scale, hint)
    for allowed in ([0.25, 1.0], [0.25, 1], [1, 1], None):
        check_value("x", allowed, hint)
