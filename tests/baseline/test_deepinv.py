import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from src.baseline.deepinv import DeepInv, Stage
from src.common import distributed
from src.common.augment import Augmentation
from src.dataset.contract import ImageSpec
from src.network.convnet import ConvNet
from src.objective.adversarial import reversed_js_divergence
from src.substitution.contract import advance
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import tap
from tests.reference import deepinv as reference

AUTHORS = {"bn": 5.0, "tv": 0.02, "l2": 0.03, "adi": 10.0}


class Spy(nn.Module):
    """Remembers what it is asked about."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.views: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.views.append(images.detach())
        logits: Tensor = self.network(images)
        return logits


class RatesOfAdam(Adam):
    """Remembers the learning rate of every step of every instance made from one list."""

    def __init__(self, params: Any, *, lr: float, log: list[list[float]]) -> None:
        super().__init__(params, lr=lr)
        self.rates: list[float] = []
        log.append(self.rates)

    def step(self, closure: Any = None) -> Any:
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


@pytest.fixture
def student(tiny_spec: ImageSpec) -> ConvNet:
    return ConvNet([3, 5], num_classes=tiny_spec.num_classes).eval()


@pytest.fixture
def make(tiny_teacher: FrozenTeacher, tiny_spec: ImageSpec) -> Any:
    def build(**options: Any) -> DeepInv:
        defaults: dict[str, Any] = {
            "teacher": tiny_teacher,
            "spec": tiny_spec,
            "optimizer": partial(Adam, lr=0.1, betas=(0.5, 0.99)),
            "batch_size": 4,
            "steps": 3,
            "max_shift": 1,
        }
        return DeepInv(**(defaults | options))

    return build


def stored(baseline: DeepInv) -> Tensor:
    return baseline.bank.images.clone()


def in_double(network: nn.Module) -> ConvNet:
    doubled = copy.deepcopy(network).double().eval()
    assert isinstance(doubled, ConvNet)
    return doubled


def jitter_drawn(pixels: Tensor, view: Tensor, pooled: Tensor) -> tuple[tuple[int, int], bool]:
    """Find which shift and mirroring made ``view``."""
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            for mirrored in (False, True):
                if torch.allclose(reference.jitter(pooled, (down, right), mirrored), view):
                    return (down, right), mirrored
    raise AssertionError("the view is no jitter of the pixels")


@pytest.mark.parametrize("protocol", ["distillation", "cifar_script", "imagenet_script"])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_iteration_equals_the_slow_equations(
    make: Any, student: ConvNet, tiny_teacher: FrozenTeacher, protocol: str, seed: int
) -> None:
    authors: dict[str, Any] = {
        "bn_weight": AUTHORS["bn"],
        "tv_l1_weight": 0.0,
        "tv_l2_weight": AUTHORS["tv"],
        "l2_weight": AUTHORS["l2"],
        "adversarial_weight": AUTHORS["adi"],
        "clip_js": True,
        "priors_on": "view",
    }
    per_sample = protocol == "imagenet_script"
    options = {} if protocol == "distillation" else authors
    if per_sample:
        options |= {"l2_per_sample": True, "first_bn_multiplier": 10.0}
    baseline, stage = make(**options), Stage(1, 2 if per_sample else 1, 1)
    torch.manual_seed(seed)
    pixels = torch.randn(3, 3, 8, 8, requires_grad=True)
    labels = torch.tensor([0, 3, 1])
    view = baseline.view(pixels, stage)
    with tap(tiny_teacher) as heard:
        terms = baseline.terms(pixels, view, labels, student, heard)
        loss = sum(baseline.weights[name] * term for name, term in terms.items())
        (gradient,) = torch.autograd.grad(loss, pixels)

    exact = pixels.detach().double().requires_grad_()
    pooled = reference.pool_2x2(exact) if per_sample else exact
    shift, mirrored = jitter_drawn(pixels, view.detach().double(), pooled.detach())
    seen = reference.jitter(pooled, shift, mirrored)
    teacher64, student64 = in_double(tiny_teacher.network), in_double(student)
    if protocol == "distillation":
        expected = reference.distillation_baseline(exact, seen, labels, teacher64, student64)
    else:
        expected = reference.authors_script(
            seen,
            labels,
            teacher64,
            student64,
            AUTHORS,
            per_sample=per_sample,
            first=10.0 if per_sample else 1.0,
        )
    (slow,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), slow, rtol=1e-3, atol=1e-5)


def test_a_round_equals_adam_clamping_and_quantising_written_out(
    make: Any, student: ConvNet, tiny_teacher: FrozenTeacher, tiny_spec: ImageSpec
) -> None:
    baseline = make(steps=2, max_shift=0, mirror=False, labels="balanced")
    torch.manual_seed(5)
    baseline.refresh(student)
    torch.manual_seed(5)
    pixels = torch.randn(4, 3, 8, 8).double()
    mean = torch.tensor(tiny_spec.mean).double().view(1, 3, 1, 1)
    std = torch.tensor(tiny_spec.std).double().view(1, 3, 1, 1)
    adam = reference.Adam(0.1, (0.5, 0.99))
    teacher64, student64 = in_double(tiny_teacher.network), in_double(student)
    for _ in range(2):
        pixels.requires_grad_()
        loss = reference.distillation_baseline(
            pixels, pixels, torch.arange(4), teacher64, student64
        )
        (gradient,) = torch.autograd.grad(loss, pixels)
        pixels = adam.step(pixels.detach(), gradient)
        pixels = torch.minimum(torch.maximum(pixels, -mean / std), (1 - mean) / std)
    levels = (pixels * std + mean) * 255
    assert (stored(baseline).double() - levels.floor()).abs().max() <= 1
    # One level only where rounding decides.
    assert (stored(baseline).double() == (levels + 1e-3).floor()).double().mean() > 0.99


@pytest.mark.parametrize(("with_student", "weight"), [(False, 1.0), (True, 0.0)])
def test_without_student_or_weight_the_student_is_not_asked(
    make: Any, student: ConvNet, with_student: bool, weight: float
) -> None:
    spy = Spy(student)
    terms = make(adversarial_weight=weight).refresh(spy if with_student else None)
    assert sorted(terms) == ["bn", "class", "tv_l1"]
    assert spy.views == []


def test_the_adversarial_term_changes_the_images(make: Any, student: ConvNet) -> None:
    alone, against = make(), make(adversarial_weight=30.0)
    for baseline, opponent in ((alone, None), (against, student)):
        torch.manual_seed(1)
        baseline.refresh(opponent)
    assert not torch.equal(stored(alone), stored(against))


def test_only_the_pixels_move(
    make: Any, student: ConvNet, tiny_teacher: FrozenTeacher, tiny_spec: ImageSpec
) -> None:
    before, teacher_before = copy.deepcopy(student.state_dict()), tiny_teacher.fingerprint()
    student.train()
    baseline = make()
    advance(baseline, student)
    baseline.refresh(student.eval())
    assert tiny_teacher.fingerprint() == teacher_before
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None and p.requires_grad for p in student.parameters())
    assert not list(baseline.parameters())


def test_the_last_iterate_is_kept_unless_the_best_is_asked_for(make: Any) -> None:
    # At this rate every step after the first makes the batch worse.
    options = {"optimizer": partial(Adam, lr=50.0), "clamp": False, "mirror": False}
    images = {}
    for keep, steps in (("last", 1), ("last", 3), ("best", 3)):
        baseline = make(keep=keep, steps=steps, max_shift=0, **options)
        torch.manual_seed(3)
        baseline.refresh(None)
        images[keep, steps] = stored(baseline)
    assert torch.equal(images["best", 3], images["last", 1])
    assert not torch.equal(images["best", 3], images["last", 3])


def test_longer_optimisation_brings_the_statistics_closer(make: Any) -> None:
    first, final = make(steps=1).refresh(None), make(steps=60).refresh(None)
    assert final["bn"] < 0.8 * first["bn"]


@pytest.mark.parametrize("clamp", [True, False])
def test_pixels_are_clamped_after_every_step(make: Any, student: ConvNet, clamp: bool) -> None:
    baseline, spy = make(clamp=clamp, steps=2), Spy(student)
    low, high = baseline.normalisation.valid_range()
    baseline.refresh(spy)
    outside = [bool(((view < low) | (view > high)).any()) for view in spy.views]
    assert outside == [True, not clamp]  # noise has no bounds


def test_half_resolution_comes_first_with_a_schedule_of_its_own(
    make: Any, student: ConvNet
) -> None:
    log: list[list[float]] = []
    spy = Spy(student)
    baseline = make(
        optimizer=partial(RatesOfAdam, lr=1.0, log=log),
        half_steps=6,
        half_max_shift=1,
        steps=4,
        warmup_steps=2,
    )
    baseline.refresh(spy)
    assert [view.shape[-1] for view in spy.views] == [4] * 6 + [8] * 4
    half, full = log
    assert half == pytest.approx([0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-5)
    assert full == pytest.approx([0.5, 1.0, 1.0, 0.5])


def test_a_warm_up_longer_than_the_stage_leaves_room_to_anneal(make: Any) -> None:
    log: list[list[float]] = []
    make(optimizer=partial(RatesOfAdam, lr=1.0, log=log), steps=4, warmup_steps=100).refresh(None)
    assert log[0] == pytest.approx([0.5, 1.0, 1.0, 0.5])


def test_the_rate_is_constant_by_default(make: Any) -> None:
    log: list[list[float]] = []
    make(optimizer=partial(RatesOfAdam, lr=0.3, log=log)).refresh(None)
    assert log == [[0.3] * 3]


def test_balanced_labels_take_turns_and_random_ones_do_not(make: Any) -> None:
    wanted = {}
    for labels in ("balanced", "random"):
        baseline = make(labels=labels, batch_size=8, steps=60, bn_weight=0.0, max_shift=0)
        baseline.refresh(None)
        with torch.no_grad():
            logits = baseline.teacher(baseline.bank.batch(torch.arange(8))).logits
        wanted[labels] = logits.argmax(1).tolist()
    assert wanted["balanced"] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert wanted["random"] != wanted["balanced"]


def test_balanced_labels_of_two_ranks_are_those_of_one(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 1)  # the other has had 0, 1, 2, 3, 0, 1
    baseline = make(labels="balanced", batch_size=6, steps=60, bn_weight=0.0, max_shift=0)
    baseline.refresh(None)
    with torch.no_grad():
        logits = baseline.teacher(baseline.bank.batch(torch.arange(6))).logits
    assert logits.argmax(1).tolist() == [2, 3, 0, 1, 2, 3]


def test_a_data_set_without_mirroring_is_not_mirrored(make: Any, tiny_spec: ImageSpec) -> None:
    ramp = torch.arange(8.0).expand(1, 3, 8, 8)
    for probability, expected in ((0.0, {False}), (0.5, {False, True})):
        baseline = make(spec=replace(tiny_spec, augmentation=Augmentation(1, probability)))
        views = [baseline.view(ramp, Stage(1, 1, 0)) for _ in range(20)]
        assert {torch.equal(view, ramp.flip(3)) for view in views} == expected


def test_equal_seeds_give_equal_images(make: Any, student: ConvNet) -> None:
    twins = [make(), make()]
    for baseline in twins:
        torch.manual_seed(7)
        baseline.refresh(student)
    assert torch.equal(stored(twins[0]), stored(twins[1]))
    twins[0].refresh(student)
    assert not torch.equal(stored(twins[0])[:4], stored(twins[0])[4:])


def test_saved_and_loaded_it_draws_the_same_sample(make: Any, tmp_path: Path) -> None:
    baseline, loaded = make(), make()
    for _ in range(2):
        baseline.refresh(None)
    torch.save(baseline.state_dict(), tmp_path / "state.pt")
    baseline.bank.sync(tmp_path / "bank.bin")
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    loaded.bank.restore(tmp_path / "bank.bin")
    samples = []
    for each in (baseline, loaded):
        torch.manual_seed(9)
        samples.append(each.sample(6))
    assert torch.equal(samples[0], samples[1])
    assert samples[0].shape == (6, 3, 8, 8)
    assert not samples[0].requires_grad


def test_samples_are_augmented(make: Any) -> None:
    baseline = make(batch_size=1)
    baseline.refresh(None)
    samples = baseline.sample(30)
    assert len({sample.numpy().tobytes() for sample in samples}) > 5


def test_two_hundred_rounds_leave_no_hook(make: Any, tiny_teacher: FrozenTeacher) -> None:
    baseline = make(steps=1, batch_size=1, tv_l1_weight=0.0)
    for _ in range(200):
        baseline.refresh(None)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in tiny_teacher.modules())
    assert len(baseline.bank) == 200


def test_the_divergence_has_the_temperature_floor_and_bound_that_were_chosen(make: Any) -> None:
    mine, its = 20 * torch.eye(2, 4), 20 * torch.eye(2, 4).flip(0)
    plain = make(js_temperature=5.0, js_floor=0.2)._agreement(mine, its)
    torch.testing.assert_close(plain, -reversed_js_divergence(mine, its, 5.0, 0.2))
    assert float(make(js_temperature=1.0)._agreement(mine, its)) < -1.5
    assert float(make(js_temperature=1.0, clip_js=True)._agreement(mine, its)) == 0
