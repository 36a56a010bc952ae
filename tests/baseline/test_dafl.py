import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch.optim import SGD, Adam

from src import naming
from src.baseline.dafl import DAFL
from src.common import package
from src.common.errors import UserError
from src.network.convnet import ConvNet
from src.network.generator import DAFLGenerator, Generator
from src.objective.distillation import DistillationObjective
from src.pipeline import stage_b
from src.student.companion import CompanionStudent
from src.substitution.contract import advance
from src.teacher.frozen import FrozenTeacher
from tests.reference import inversion

WEIGHTS = {"one_hot_weight": 0.5, "balance_weight": 3.0, "activation_weight": 0.2}
ORIGINAL = {
    "generator": partial(DAFLGenerator, latent_dim=3),
    "protocol": "shared_batch",
    "sampling_mode": "train",
    "whitened": True,
    "balance_log_base": 10.0,
}


@pytest.fixture
def make(tiny_spec):
    """Makes the method, with a teacher of the default dtype."""

    def build(spec=tiny_spec, teacher=None, **options):
        teacher = teacher or FrozenTeacher(ConvNet([3, 4], num_classes=spec.num_classes))
        defaults = {
            "generator": partial(Generator, latent_dim=3, base_width=2),
            "optimizer": partial(Adam, lr=1e-3),
            "batch_size": 4,
        }
        return DAFL(teacher=teacher, spec=spec, **(defaults | WEIGHTS | options))

    return build


def seen_by_the_teacher(method, action):
    """Runs ``action`` and returns the images that the teacher was shown."""
    seen = []
    hook = method.teacher.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    action()
    hook.remove()
    return seen


@pytest.mark.parametrize("base", [10.0, math.e])
def test_losses_and_gradient_equal_the_literal_ones(float64, make, base):
    method = make(balance_log_base=base, optimizer=partial(SGD, lr=0.0))
    torch.manual_seed(1)
    images = method.normalisation(method.generator(torch.randn(4, 3)))
    output = method.teacher(images)
    expected = {
        "one_hot": inversion.one_hot(output.logits),
        "balance": inversion.balance(output.logits, base),
        "activation": inversion.activation(output.features),
    }
    loss = sum(WEIGHTS[f"{name}_weight"] * term for name, term in expected.items())
    gradients = torch.autograd.grad(loss, list(method.generator.parameters()))
    torch.manual_seed(1)
    terms = advance(method, None)
    torch.testing.assert_close(terms, {name: term.detach() for name, term in expected.items()})
    actual = [parameter.grad for parameter in method.generator.parameters()]
    torch.testing.assert_close(actual, list(gradients), rtol=1e-9, atol=1e-12)


def test_an_even_batch_is_worth_minus_one_in_decimal_logs(make, tiny_spec):
    spec = replace(tiny_spec, num_classes=10)
    method = make(spec, balance_log_base=10.0)
    torch.nn.init.zeros_(method.teacher.network.fc.weight)
    torch.nn.init.zeros_(method.teacher.network.fc.bias)
    assert advance(method, None)["balance"].item() == pytest.approx(-1)


@pytest.mark.parametrize("options", [{}, ORIGINAL])
def test_distillation_never_reaches_the_generator(make, tiny_spec, options):
    method = make(**options)
    advance(method, None)
    method.generator.zero_grad()
    before = [parameter.clone() for parameter in method.generator.parameters()]
    companion = CompanionStudent(
        ConvNet([4, 8], num_classes=tiny_spec.num_classes),
        DistillationObjective(1.0),
        optimizer=partial(SGD, lr=0.1),
        scheduler=None,
        scheduler_steps=1,
        steps_per_round=2,
        batch_size=4,
    )
    assert companion.learn(method)["distillation"] > 0
    assert all(parameter.grad is None for parameter in method.generator.parameters())
    torch.testing.assert_close(list(method.generator.parameters()), before, rtol=0, atol=0)


class TestOriginalProtocol:
    def test_the_student_sees_the_batch_that_the_generator_was_just_trained_with(self, make):
        method = make(**ORIGINAL)
        for _ in range(2):
            (images,) = seen_by_the_teacher(method, lambda: advance(method, None))
            assert torch.equal(method.sample(4), images)
            assert torch.equal(method.sample(3), images[:3])
            assert not method.sample(4).requires_grad

    def test_a_larger_student_batch_is_refused(self, make):
        method = make(**ORIGINAL)
        advance(method, None)
        with pytest.raises(UserError, match=r"batch_size <= baseline.batch_size=4 .* but got 5"):
            method.sample(5)

    def test_the_shared_batch_survives_saving(self, make):
        first, second = make(**ORIGINAL), make(**ORIGINAL)
        advance(first, None)
        second.load_state_dict(first.state_dict())
        assert torch.equal(first.sample(4), second.sample(4))

    def test_the_shared_batch_goes_where_the_method_is(self, make):
        first, second = make(**ORIGINAL), make(**ORIGINAL).to("meta")
        advance(first, None)
        second.set_extra_state(first.get_extra_state())  # of a file, it is in the host's memory
        assert second.sample(4).device.type == "meta"

    def test_a_dictionary_that_is_made_again_is_of_other_images_in_every_batch(self, make):
        method = make(**ORIGINAL)
        advance(method, None)
        shared = method.sample(4)
        job = SimpleNamespace(
            config=SimpleNamespace(
                distill=SimpleNamespace(batch_size=4),
                substitution=SimpleNamespace(num_images=12),
            )
        )
        recording = stage_b._draw(job, method)
        assert len(recording.logits.unique(dim=0)) == 12
        assert torch.equal(method.sample(4), shared)
        assert len(method.fresh(5)) == 5  # of no trained batch, so of any number

    def test_images_are_whitened_by_the_generator_and_not_normalised_again(self, make):
        method = make(**ORIGINAL, batch_size=64)
        (images,) = seen_by_the_teacher(method, lambda: advance(method, None))
        var, mean = torch.var_mean(images, dim=(0, 2, 3), correction=0)
        torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
        assert ((var > 0.5) & (var < 1.01)).all()  # epsilon beside the small variance of a Tanh

    def test_recorded_images_come_back_as_they_are(self, make):
        method = make(**ORIGINAL)
        torch.manual_seed(2)
        with torch.no_grad():
            expected = method.generator.train()(torch.randn(4, 3))
        torch.manual_seed(2)
        method.harvest(4)
        assert method.bank.images.dtype == torch.float16
        actual = method.bank.batch(torch.arange(4))
        torch.testing.assert_close(actual, expected.detach(), rtol=1e-3, atol=1e-3)


class TestLaterProtocol:
    def test_the_student_sees_fresh_images_in_the_teachers_space(self, make):
        method = make(sampling_mode="train")
        (images,) = seen_by_the_teacher(method, lambda: advance(method, None))
        fresh = method.sample(4)
        assert not torch.equal(fresh, images)
        low, high = method.normalisation.valid_range()
        assert ((low <= fresh) & (fresh <= high)).all()

    @pytest.mark.parametrize(("sampling_mode", "moves"), [("train", True), ("eval", False)])
    def test_mode_of_the_generator_while_it_feeds_the_student(self, make, sampling_mode, moves):
        method = make(sampling_mode=sampling_mode)
        advance(method, None)
        counter = method.generator.conv_blocks[0].num_batches_tracked
        for action in (lambda: method.sample(4), lambda: method.harvest(4)):
            before = int(counter)
            action()
            assert (int(counter) > before) == moves
            assert method.generator.training

    def test_harvest_records_exactly_what_is_asked_for(self, make):
        method = make()
        for n in (0, 3, 9):
            before = len(method.bank)
            method.harvest(n)
            assert len(method.bank) - before == n


def composed(*overrides):
    with initialize_config_dir(str(package.CONF), version_base="1.3"):
        return naming.resolved(compose("config", ["baseline=dafl", *overrides]))


def test_the_pair_that_the_original_was_published_on_gets_its_protocol():
    config = composed("dataset=cifar10")
    assert config["baseline"]["protocol"] == "shared_batch"
    assert config["baseline"]["generator"]["latent_dim"] == 1000
    assert config["distill"]["scheduler"]["milestones"] == [800, 1600]
    assert config["substitution"]["rounds"] == 2000 * 120


def test_other_pairs_get_the_later_protocol():
    config = composed("dataset=cifar10", "teacher=wrn40_2", "student=wrn16_1")
    assert config["baseline"]["protocol"] == "fresh_batch"
    assert config["baseline"]["generator"]["latent_dim"] == 512
    assert config["distill"]["scheduler"]["T_max"] == 200
    assert config["distill"]["optimizer"]["weight_decay"] == 1e-4


def test_the_command_line_wins_over_a_table_which_is_not_kept():
    config = composed("dataset=cifar10", "baseline.batch_size=7")
    assert config["baseline"]["batch_size"] == 7
    assert "tables" not in config
