import random
from statistics import fmean
from typing import Any

import pytest

from src.report.gain import pairs_needed
from src.report.variance import Components, components, variance


def test_components_of_a_balanced_design_in_closed_form() -> None:
    """Two teachers at 60 and 80, stages (a) at -4 and +4, stages (b) at -1 and +1."""
    values = {
        name: {seed: [mean + a - 1, mean + a + 1] for seed, a in ((0, -4), (1, 4))}
        for name, mean in (("t", 60.0), ("u", 80.0))
    }
    # Mean squares: 2 within (8 / 4), 64 of stages (a) (2 * 4 * 16 / 2), 800 of teachers.
    found = components(values)
    assert found is not None
    assert found.stage_b == pytest.approx(2.0)
    assert found.stage_a == pytest.approx((64 - 2) / 2)
    assert found.teacher == pytest.approx((800 - 64) / 4)
    assert found.of_a_seed == pytest.approx(33.0)


def test_groups_of_unequal_size_in_closed_form() -> None:
    # One teacher, stages (a) of 3 and 1 runs; coefficient 4 - (9 + 1) / 4 = 1.5.
    found = components({"t": {0: [10.0, 12.0, 14.0], 1: [20.0]}})
    assert found is not None
    assert found.teacher is None
    assert found.stage_b == pytest.approx(8 / 2)
    between = 3 * (12 - 14) ** 2 + (20 - 14) ** 2
    assert found.stage_a == pytest.approx((between - 4) / 1.5)


def test_estimates_are_unbiased_on_unequal_groups() -> None:
    draw, truth = random.Random(0), (3.0, 2.0, 1.0)
    sizes = [[2, 3], [1, 2, 2], [3], [2, 1]]
    found = []
    for _ in range(4000):
        values: dict[str, dict[int, list[float]]] = {}
        for number, stages in enumerate(sizes):
            teacher = draw.gauss(0, truth[0])
            values[str(number)] = {}
            for seed, size in enumerate(stages):
                stage_a = teacher + draw.gauss(0, truth[1])
                values[str(number)][seed] = [stage_a + draw.gauss(0, 1) for _ in range(size)]
        each = components(values)
        assert each is not None
        assert each.teacher is not None
        found.append((each.teacher, each.stage_a, each.stage_b))
    means = [fmean(column) for column in zip(*found, strict=True)]
    assert means == pytest.approx([value**2 for value in truth], rel=0.05)


@pytest.mark.parametrize(
    "values",
    [{"t": {0: [1.0], 1: [2.0]}}, {"t": {0: [1.0, 2.0]}, "u": {1: [3.0, 4.0]}}, {}],
    ids=["no stage (b) twice", "no stage (a) twice", "nothing"],
)
def test_what_was_never_repeated_has_no_components(values: Any) -> None:
    assert components(values) is None


def test_a_negative_estimate_adds_nothing_to_a_seed() -> None:
    found = components({"t": {0: [1.0, 3.0], 1: [3.0, 1.0]}})
    assert found == Components(None, -1.0, 2.0)
    assert found.of_a_seed == 2.0


@pytest.fixture
def design(make_summary: Any, make_kdci: Any) -> list[Any]:
    """Seeds 0, 1 of one teacher and 2, 3 of another; KDCI adds 1, and 2 in odd repeats."""
    runs = []
    for seed in range(4):
        for repeat in range(2):
            vanilla = 50.0 + 10 * (seed // 2) + 4 * (seed % 2) + 2 * repeat
            teacher = seed // 2
            settings = {"distill.repeat": repeat, "teacher.seed": teacher}
            same = {"seed": seed, "teacher": {"sha256": f"{teacher}", "acc1": 90.0 + teacher}}
            runs.append(make_summary(vanilla, settings=settings, **same))
            runs.append(make_kdci(vanilla + 1 + repeat, settings=settings, **same))
    return runs


def test_the_table_of_a_design(design: list[Any]) -> None:
    (block,) = variance(design)
    assert block.title == "digits: convnet_m -> convnet_s, budget laptop, replay"
    (part,) = block.parts
    vanilla, kdci, gain = part.lines
    # Mean squares: stages (b) 8 / 4 = 2, stages (a) 32 / 2 = 16, teachers 200.
    assert vanilla[:9] == ("dafl", "none", "-", "-", "last", "8", "2", "4", "58.00")
    assert vanilla[9:] == ("6.78", "2.65", "1.41", str(pairs_needed(1.0, (2 * 9) ** 0.5)))
    assert kdci[4] == "last"
    # Gains of 1 and 2 everywhere: all of it is stage (b)'s, 0.5; of stage (a) negative, -0.25.
    assert gain[4:9] == ("gain", "8", "2", "4", "+1.50")
    assert gain[9:] == ("0.00", "0.00*", "0.71", str(pairs_needed(1.0, 0.5**0.5)))


def test_runs_that_repeat_nothing_show_nothing(make_summary: Any) -> None:
    assert list(variance([make_summary(80.0, seed=seed) for seed in range(3)])) == []
