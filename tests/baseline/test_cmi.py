import copy
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from src.baseline.cmi import CMI, feature_dim, feature_layers_of
from src.common.augment import Augmentation, random_crop_flip, random_resized_crop
from src.common.errors import UserError
from src.config.value import check_value, hints_of
from src.dataset.contract import ImageSpec
from src.network.convnet import ConvNet
from src.network.generator import Generator, reinitialise
from src.network.resnet import ResNet
from src.network.vgg import VGG
from src.network.wide_resnet import WideResNet
from src.substitution.contract import advance
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import tap
from tests.reference import cmi as reference


class Counter(nn.Module):
    """Counts how often it is asked."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, images: Tensor) -> Any:
        self.calls += 1
        return self.network(images)


@pytest.fixture
def student(tiny_teacher: FrozenTeacher) -> ConvNet:
    """One that often, not always, decides as the teacher does."""
    network = copy.deepcopy(tiny_teacher.network).requires_grad_()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    assert isinstance(network, ConvNet)
    return network.eval()


@pytest.fixture
def make(tiny_teacher: FrozenTeacher, tiny_spec: ImageSpec) -> Any:
    def build(**options: Any) -> CMI:
        defaults: dict[str, Any] = {
            "teacher": tiny_teacher,
            "spec": tiny_spec,
            "generator": partial(Generator, latent_dim=6, base_width=4),
            "optimizer": partial(Adam, lr=1e-2, betas=(0.5, 0.999)),
            "head_optimizer": partial(Adam, lr=1e-2),
            "batch_size": 4,
            "steps": 3,
            "projection_dim": 5,
            "bank_capacity": 16,
            "num_negatives": 8,
        }
        return CMI(**(defaults | options))

    return build


def stored(baseline: CMI) -> Tensor:
    return baseline.bank.images.clone()


def in_double(network: nn.Module) -> Any:
    return copy.deepcopy(network).double()


def contrast_of(baseline: CMI) -> Any:
    assert baseline.contrast is not None
    return baseline.contrast


@pytest.mark.parametrize("banked_rounds", [0, 1, 4])
def test_an_iteration_equals_the_slow_equations(
    make: Any,
    student: ConvNet,
    tiny_teacher: FrozenTeacher,
    tiny_spec: ImageSpec,
    banked_rounds: int,
) -> None:
    baseline = make(num_negatives=16)
    contrast = contrast_of(baseline)
    for _ in range(banked_rounds):
        contrast.bank.append(torch.randn(4, 24))
    generator, head = baseline.generator, list(contrast.head.parameters())
    latents, labels = torch.randn(4, 6, requires_grad=True), torch.tensor([0, 3, 1, 1])
    variables = [latents, *generator.parameters(), *head]
    torch.manual_seed(banked_rounds)
    with tap(tiny_teacher) as heard:
        terms, features = baseline.terms(generator(latents), labels, student, heard)
        loss = sum(baseline.weights[name] * term for name, term in terms.items())
        gradients = torch.autograd.grad(loss, variables)

    assert terms["adversarial"] < 0
    draws = torch.default_generator.manual_seed(banked_rounds)
    exact, generator64 = latents.detach().double().requires_grad_(), in_double(generator)
    head64 = [parameter.detach().double().requires_grad_() for parameter in head]
    mean = torch.tensor(tiny_spec.mean).double().view(1, 3, 1, 1)
    std = torch.tensor(tiny_spec.std).double().view(1, 3, 1, 1)

    def global_view(images: Tensor) -> Tensor:
        return (random_crop_flip(images, 1, 0.5, draws) - mean) / std

    def local_view(images: Tensor) -> Tensor:
        boxes = random_resized_crop(images, 8, (0.25, 1.0), (3 / 4, 4 / 3), draws)
        return (random_crop_flip(boxes, 0, 0.5, draws) - mean) / std

    expected, expected_features = reference.loss(
        generator64(exact),
        global_view,
        local_view,
        labels,
        in_double(tiny_teacher.network),
        in_double(student),
        head64,
        contrast.bank.rows[: 4 * banked_rounds].double(),
    )
    slow = torch.autograd.grad(expected, [exact, *generator64.parameters(), *head64])
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.double(), expected_features, rtol=1e-5, atol=1e-5)
    for actual, wanted in zip(gradients, slow, strict=True):
        torch.testing.assert_close(actual.double(), wanted, rtol=1e-3, atol=2e-5)


def test_only_the_local_view_and_the_head_learn_from_the_contrastive_term(make: Any) -> None:
    contrast = contrast_of(make())
    contrast.bank.append(torch.randn(4, 24))
    views = [torch.randn(4, 12, requires_grad=True) for _ in range(2)]
    local, global_ = torch.autograd.grad(contrast(*views), views, allow_unused=True)
    assert local.any()
    assert global_ is None
    assert not contrast.bank.rows.requires_grad


def test_a_generator_starts_every_round_as_published(make: Any) -> None:
    generator = Generator(image_size=32)
    reinitialise(generator)
    for name, layer in generator.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            weight, centre = layer.weight, float(isinstance(layer, nn.BatchNorm2d))
            tolerance = 5 * 0.02 / weight.numel() ** 0.5
            assert abs(weight.mean() - centre) < tolerance, name
            assert abs(weight.std() - 0.02) < tolerance, name
            assert layer.bias is None or not layer.bias.any(), name


def test_no_round_depends_on_the_generator_of_the_last(make: Any) -> None:
    baseline = make(contrastive_weight=0.0)
    for _ in range(2):
        torch.manual_seed(2)
        baseline.refresh(None)
    first, second = stored(baseline).split(4)
    assert torch.equal(first, second)


def test_latents_are_optimised_with_the_generator(make: Any) -> None:
    moved: list[list[Tensor]] = []

    class Watched(Adam):
        def __init__(self, params: Any, lr: float) -> None:
            self.watched = list(params)
            moved.append([parameter.detach().clone() for parameter in self.watched])
            super().__init__(self.watched, lr=lr)

        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            before = moved.pop()
            moved.append([p.detach() - old for p, old in zip(self.watched, before, strict=True)])

    baseline = make(optimizer=partial(Watched, lr=0.1), steps=1)
    baseline.refresh(None)
    assert all(change.any() for change in moved[0])
    assert len(moved[0]) == len(list(baseline.generator.parameters())) + 1
    assert (4, 6) in [tuple(change.shape) for change in moved[0]]


def test_the_generator_normalises_by_its_batch_whatever_the_mode(make: Any) -> None:
    baseline = make(steps=3)
    baseline.eval().refresh(None)
    counts = [b for name, b in baseline.generator.named_buffers() if name.endswith("tracked")]
    assert [int(count) for count in counts] == [3] * 3


def test_the_head_and_its_adam_outlive_rounds(make: Any) -> None:
    baseline = make()
    before = copy.deepcopy(contrast_of(baseline).head.state_dict())
    for _ in range(2):
        baseline.refresh(None)
    steps = [float(state["step"]) for state in baseline.optimizers()["head"].state.values()]
    assert steps == [6.0] * 4
    for name, value in contrast_of(baseline).head.state_dict().items():
        assert not torch.equal(value, before[name]), name
    assert baseline.networks() == [contrast_of(baseline).head]


def test_when_the_feature_bank_is_exactly_full_the_next_batch_is_as_good(make: Any) -> None:
    # With capacity 4 N the released code gave NaN in round 5 and stored a batch of raw noise:
    # the first iterate, since no loss is below NaN.
    baseline, kept_first = make(steps=6), make(steps=1)
    for index in range(6):
        assert len(contrast_of(baseline).bank) == min(4 * index, 16)
        torch.manual_seed(index)
        terms = baseline.refresh(None)
        assert all(term.isfinite() for term in terms.values()), index
        torch.manual_seed(index)
        kept_first.refresh(None)
    for index, (images, noise) in enumerate(
        zip(stored(baseline).split(4), stored(kept_first).split(4), strict=True)
    ):
        assert not torch.equal(images, noise), index


def test_the_best_iterate_is_kept_with_its_features(make: Any) -> None:
    # At this rate every step makes the batch worse, so that the first iterate is the best.
    rate = partial(Adam, lr=3.0)
    baselines = [make(optimizer=rate, steps=steps) for steps in (1, 4)]
    contrast_of(baselines[1]).load_state_dict(contrast_of(baselines[0]).state_dict())
    for baseline in baselines:
        torch.manual_seed(4)
        baseline.refresh(None)
    assert torch.equal(stored(baselines[0]), stored(baselines[1]))
    rows = [contrast_of(baseline).bank.rows[:4] for baseline in baselines]
    assert rows[0].any()
    assert torch.equal(rows[0], rows[1])


@pytest.mark.parametrize("weight", [0.0, 0.8])
def test_without_contrastive_weight_its_work_is_skipped(
    make: Any, tiny_teacher: FrozenTeacher, weight: float
) -> None:
    forwards: list[int] = []
    hook = tiny_teacher.register_forward_pre_hook(lambda *_: forwards.append(1))
    baseline = make(contrastive_weight=weight, steps=3)
    forwards.clear()
    terms = baseline.refresh(None)
    hook.remove()
    assert ("contrastive" in terms) == (weight > 0)
    assert len(forwards) == (6 if weight else 3)
    assert len(list(baseline.optimizers())) == len(baseline.networks()) == (1 if weight else 0)
    assert len(baseline.bank) == 4


def test_longer_optimisation_lowers_the_terms(make: Any) -> None:
    rate = partial(Adam, lr=0.03, betas=(0.5, 0.999))
    first, final = make(steps=1).refresh(None), make(steps=60, optimizer=rate).refresh(None)
    assert final["bn"] < 0.8 * first["bn"]
    assert final["contrastive"] < 0.8 * first["contrastive"]


@pytest.mark.parametrize(("with_student", "weight"), [(False, 0.5), (True, 0.0)])
def test_without_student_or_weight_the_student_is_not_asked(
    make: Any, student: ConvNet, with_student: bool, weight: float
) -> None:
    counter = Counter(student)
    terms = make(adversarial_weight=weight).refresh(counter if with_student else None)
    assert sorted(terms) == ["bn", "class", "contrastive"]
    assert counter.calls == 0


def test_only_generator_and_head_move(
    make: Any, student: ConvNet, tiny_teacher: FrozenTeacher
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


def test_a_data_set_without_mirroring_is_not_mirrored(
    make: Any, tiny_teacher: FrozenTeacher, tiny_spec: ImageSpec
) -> None:
    upright = ImageSpec(4, 8, tiny_spec.mean, tiny_spec.std, augmentation=Augmentation(0, 0.0))
    baseline = make(spec=upright)
    ramp = torch.linspace(0, 1, 8).expand(4, 3, 8, 8)
    for _ in range(10):
        assert torch.equal(baseline.global_view(ramp), ramp)
        assert (baseline.local_view(ramp).diff(dim=3) > 0).all()


def test_the_global_view_is_never_a_resized_crop(make: Any, tiny_spec: ImageSpec) -> None:
    resizing = replace(tiny_spec, augmentation=Augmentation(1, 0.5, (0.1, 0.2)))
    images = torch.rand(4, 3, 8, 8)
    torch.manual_seed(3)
    view = make(spec=resizing).global_view(images)
    torch.manual_seed(3)
    assert torch.equal(view, make(spec=tiny_spec).global_view(images))


def test_the_local_view_enlarges_boxes_of_the_allowed_area(make: Any) -> None:
    view = make(local_scale=(0.25, 0.25)).local_view(torch.linspace(0, 1, 8).expand(50, 3, 8, 8))
    widths = 7 * (view[:, 0, 0, 0] - view[:, 0, 0, -1]).abs() + 1
    # A quarter of 64 pixels, at ratios from 3/4 to 4/3, in whole pixels.
    assert set(widths.round().tolist()) == {3.0, 4.0, 5.0}


def width_of_features(network: Any, choice: str) -> int:
    with torch.device("meta"):  # drawing millions of weights would take most of the time
        teacher = FrozenTeacher(network(num_classes=10).to_empty(device="cpu"))
    spec = ImageSpec(10, 32, (0.5,) * 3, (0.5,) * 3)
    return feature_dim(teacher, feature_layers_of(teacher, choice), spec)


@pytest.mark.parametrize(
    ("network", "choice", "expected"),
    [
        (partial(WideResNet, 40, 2), "auto", 2704),
        (partial(WideResNet, 16, 1), "auto", 464),
        (partial(VGG, 11), "auto", 2752),
        (partial(ResNet, 18), "auto", 4800),
        (partial(ResNet, 34), "auto", 512),
        (partial(ResNet, 34), "bn", 8512),
        (partial(ResNet, 18), "stages", 512),
    ],
)
def test_features_have_the_published_widths(network: Any, choice: str, expected: int) -> None:
    assert width_of_features(network, choice) == expected


def test_stages_need_a_resnet(make: Any) -> None:
    expected = r"baseline\.feature_layers=auto or .*=bn with .* got stages and ConvNet"
    with pytest.raises(UserError, match=expected):
        make(feature_layers="stages")
    assert make(feature_layers="auto").feature_layers == make(feature_layers="bn").feature_layers


def test_equal_seeds_give_equal_images(make: Any, student: ConvNet) -> None:
    torch.manual_seed(0)
    first = make()
    torch.manual_seed(0)
    second = make()
    for baseline in (first, second):
        torch.manual_seed(7)
        for _ in range(2):
            baseline.refresh(student)
    assert torch.equal(stored(first), stored(second))
    assert not torch.equal(stored(first)[:4], stored(first)[4:])


def test_saved_and_loaded_it_goes_on_exactly(make: Any, tmp_path: Path) -> None:
    baseline, loaded = make(), make()
    for _ in range(5):
        baseline.refresh(None)
    torch.save(baseline.state_dict(), tmp_path / "state.pt")
    baseline.bank.sync(tmp_path / "bank.bin")
    loaded.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    loaded.bank.restore(tmp_path / "bank.bin")
    samples = []
    for each in (baseline, loaded):
        torch.manual_seed(9)
        samples += [each.sample(6), each.refresh(None)["contrastive"], stored(each)]
    assert samples[0].shape == (6, 3, 8, 8)
    for before, after in zip(samples[:3], samples[3:], strict=True):
        assert torch.equal(before, after)


def test_the_bank_may_start_with_earlier_images(make: Any, tmp_path: Path) -> None:
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    np.save(tmp_path / "bank.npy", images.numpy())
    baseline = make(initial_images=str(tmp_path / "bank.npy"))
    assert torch.equal(stored(baseline), images)
    baseline.refresh(None)
    assert len(baseline.bank) == 9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Cannot read"),
        (np.zeros((2, 3, 8, 8), np.float32), r"float32 \[2, 3, 8, 8\]"),
        (np.zeros((2, 3, 9, 8), np.uint8), r"uint8 images \[n, 3, 8, 8\].* but got uint8 \[2, 3"),
        (np.zeros((0, 3, 8, 8), np.uint8), r"one or more uint8 .* but got uint8 \[0, 3, 8, 8\]"),
        (np.array([{"code": 1}], dtype=object), "Cannot read"),
    ],
)
def test_other_files_than_images_are_refused(
    make: Any, tmp_path: Path, content: Any, message: str
) -> None:
    path = tmp_path / "bank.npy"
    if content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        make(initial_images=str(path))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_regular_file_is_refused_unopened(make: Any, tmp_path: Path, kind: str) -> None:
    path = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)  # opening it would wait for a writer for ever
    with pytest.raises(UserError, match=rf"initial_images='{path}' \(no regular file\)"):
        make(initial_images=str(path))


def test_two_hundred_rounds_leave_no_hook(make: Any, tiny_teacher: FrozenTeacher) -> None:
    baseline = make(
        steps=1, batch_size=1, generator=partial(Generator, latent_dim=2, base_width=2)
    )
    for _ in range(200):
        baseline.refresh(None)
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in tiny_teacher.modules())
    assert len(baseline.bank) == 200
    assert len(contrast_of(baseline).bank) == 16


def test_earlier_images_are_shared_out_among_ranks(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8)
    np.save(tmp_path / "bank.npy", images.numpy())
    monkeypatch.setattr("src.baseline.cmi.world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr("src.baseline.cmi.rank", lambda rank=rank: rank)
        found = stored(make(initial_images=str(tmp_path / "bank.npy")))
        assert torch.equal(found, images[rank::2])


@pytest.mark.parametrize("scale", [[2.0, 3.0], [-1.0, 3.0], [0, 0], [1.0, 0.25], [0.5, 1.5]])
def test_areas_of_the_local_view_are_shares_of_the_image(scale: list[float]) -> None:
    hint = hints_of(CMI)["local_scale"]
    with pytest.raises(UserError, match=r"'x': expected .* 0 < least <= greatest <= 1, but got"):
        check_value("x", scale, hint)
    for allowed in ([0.25, 1.0], [0.25, 1], [1, 1]):
        check_value("x", allowed, hint)
