import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from src.baseline import dfnd
from src.baseline.dfnd import DFND
from src.common.augment import Augmentation
from src.objective.distillation import StudentOutput
from src.substitution.contract import advance
from tests.toys import NoisePool

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
COUNT = 40  # images of a NoisePool


@pytest.fixture
def make(tiny_spec, tiny_teacher):
    def build(**options):
        defaults = {"pool": NoisePool(), "num_select": 10}
        return DFND(teacher=tiny_teacher, spec=tiny_spec, **(defaults | options))

    return build


@pytest.fixture
def sharp_teacher(tiny_teacher):
    """Confidences that differ by more than rounding."""
    tiny_teacher.network.fc.weight *= 20
    return tiny_teacher


def scores(teacher, images: Tensor, mean, std):
    """``-log max_c p_c`` of every image, alone, and its class."""
    values, classes = [], []
    for image in images:
        pixels = (image.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(
            std
        ).view(3, 1, 1)
        probs = teacher(pixels.float().unsqueeze(0)).logits[0].double().softmax(0)
        values.append(-float(probs.max().log()))
        classes.append(int(probs.argmax()))
    return values, classes


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        ("imagenet", IMAGENET),
        ("pool", NoisePool.statistics),
        ("teacher", ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))),
    ],
)
def test_the_most_confident_images_are_kept(sharp_teacher, make, statistics, expected):
    method = make(statistics=statistics)
    values, classes = scores(sharp_teacher, method.pool.images, *expected)
    terms = advance(method, None)
    order = sorted(range(COUNT), key=lambda i: values[i])[:10]
    assert method.selected.tolist() == order
    assert torch.equal(method.bank.images, method.pool.images[order])
    kept = [classes[i] for i in order]
    assert method.class_counts.tolist() == [kept.count(c) for c in range(4)]
    assert terms["selected_nll"].item() == pytest.approx(sum(values[i] for i in order) / 10, 1e-4)
    shown = method.bank.batch(torch.arange(10))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in expected)
    torch.testing.assert_close(shown, (method.pool.images[order] / 255 - mean) / std)


def test_ties_keep_the_order_of_the_pool(make, tiny_teacher):
    torch.nn.init.zeros_(tiny_teacher.network.fc.weight)
    method = make()
    advance(method, None)
    assert method.selected.tolist() == list(range(10))


def test_later_rounds_leave_the_selection_alone(make):
    method = make()
    assert advance(method, None)
    assert advance(method, None) == {}
    assert len(method.bank) == 10


def test_a_pool_that_is_too_small_is_kept_whole(make, caplog):
    method = make(num_select=100)
    with caplog.at_level(logging.WARNING):
        advance(method, None)
    assert len(method.bank) == COUNT
    assert "40 images, 100 were asked for" in caplog.text


def test_augmentation_is_a_switch(make):
    plain, augmented = make(augment=False), make()
    for method in (plain, augmented):
        advance(method, None)
    stored = plain.bank.batch(torch.arange(10))
    assert all(any(torch.equal(image, other) for other in stored) for image in plain.sample(6))
    assert augmented.bank.augmentation == Augmentation(1, 0.5)
    shown = augmented.sample(20)
    stored = augmented.bank.batch(torch.arange(10))
    assert not all(any(torch.equal(image, other) for other in stored) for image in shown)


def test_the_noise_matrix_has_the_teachers_accuracy_on_its_diagonal(make, tiny_teacher):
    assert make().objective().noise.diagonal == 0.9
    assert make(diagonal=0.9523).objective().noise.diagonal == 0.9523
    for nearly_sure in (100.0, None):  # not measured
        tiny_teacher.acc1 = nearly_sure
        assert make().objective().noise.diagonal == 0.999
    tiny_teacher.acc1 = 0.0  # measured: of many classes, after a budget of seconds
    assert make().objective().noise.diagonal == pytest.approx(0.001)


def test_the_first_release_weights_classes(make):
    options = {"weight_classes": True, "augment": False, "temperature": 2.0}
    method = make(**options, num_select=COUNT)
    assert method.objective().class_weights is None  # nothing selected yet
    advance(method, None)
    objective = method.objective()
    counts = method.class_counts.tolist()
    share = [sum(counts) + 4 for _ in counts]
    rarity = [total / (count + 1) for total, count in zip(share, counts, strict=True)]
    expected = [4 * value / sum(rarity) for value in rarity]
    torch.testing.assert_close(objective.class_weights, torch.tensor(expected))
    assert objective.temperature == 2.0
    second = make()
    advance(second, None)
    assert second.objective().class_weights is None
    assert second.objective().temperature == 4.0


@pytest.mark.parametrize("compensate_noise", [True, False])
def test_which_prediction_the_noise_term_sees(make, compensate_noise):
    objective = make(compensate_noise=compensate_noise).objective()
    plain = torch.randn(5, 4)
    teacher_logits = torch.randn(5, 4)
    values = [
        objective(StudentOutput(torch.zeros(5, 4), raw), teacher_logits) for raw in (plain, -plain)
    ]
    assert bool(values[0] == values[1]) == compensate_noise


def test_the_selection_survives_saving(make):
    first, second = make(weight_classes=True), make(weight_classes=True)
    advance(first, None)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.selected, second.selected)
    assert torch.equal(first.objective().class_weights, second.objective().class_weights)
    assert advance(second, None) == {}


@pytest.mark.parametrize("count", [COUNT, COUNT - 1])
def test_two_ranks_score_the_pool_as_one_does_and_share_out_what_is_selected(
    sharp_teacher, make, monkeypatch, count
):
    alone, own = make(), threading.local()
    alone.pool.images = alone.pool.images[:count]
    expected = advance(alone, None)
    meeting, boxes = threading.Barrier(2, timeout=60), [None, None]

    def gather(rows):
        boxes[own.rank] = rows
        meeting.wait()
        gathered = torch.cat(boxes)
        meeting.wait()
        return gathered

    monkeypatch.setattr(dfnd, "rank", lambda: own.rank)
    monkeypatch.setattr(dfnd, "world_size", lambda: 2)
    monkeypatch.setattr(dfnd, "gather_rows", gather)

    def play(rank):
        own.rank = rank
        method = make(pool=alone.pool)
        return method, advance(method, None)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(play, range(2)))
    for rank, (method, terms) in enumerate(found):
        assert torch.equal(method.selected, alone.selected)
        assert torch.equal(method.class_counts, alone.class_counts)
        assert torch.equal(method.bank.images, alone.bank.images[rank::2])
        torch.testing.assert_close(terms, expected)


def test_pool_images_are_mirrored_even_where_the_data_set_s_are_not(tiny_spec, tiny_teacher):
    spec = replace(tiny_spec, augmentation=Augmentation(1, 0.0))
    method = DFND(teacher=tiny_teacher, spec=spec, pool=NoisePool(), num_select=10)
    assert method.bank.augmentation == Augmentation(1, 0.5)
