import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from random import Random
from statistics import fmean, stdev

import pytest
from scipy import stats

from src.report.block import gain_cells
from src.report.gain import (
    Gain,
    bootstrap_interval,
    gain_of,
    pairs_needed,
    power_of,
    sign_flip_p,
    t_interval,
)

# Student's own sleep data: additional hours under two drugs, ten patients (Biometrika 6, 1908).
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]


def slow_p(images: Sequence[int]) -> Fraction:
    """Share of all sign patterns whose sum is as far from zero, in whole numbers."""
    patterns = list(product((-1, 1), repeat=len(images)))
    sums = [sum(s * g for s, g in zip(signs, images, strict=True)) for signs in patterns]
    return Fraction(sum(abs(each) >= abs(sum(images)) for each in sums), len(sums))


def test_t_interval_of_students_own_data() -> None:
    # R: t.test(extra ~ group, data = sleep, paired = TRUE) gives 0.7001142 and 2.4598858.
    assert t_interval(SLEEP) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)


def test_all_that_ten_pairs_say() -> None:
    gain = gain_of(SLEEP)
    assert (gain.pairs, gain.mean) == (10, pytest.approx(1.58))
    assert gain.std == pytest.approx(1.229995, abs=1e-6)
    assert (gain.t_low, gain.t_high) == t_interval(SLEEP)
    assert (gain.bootstrap_low, gain.bootstrap_high) == bootstrap_interval(SLEEP)
    assert gain.p == pytest.approx(2 / 2**9)  # the zero counts on either side
    assert gain.pairs_for_one_point == pairs_needed(1.0, stdev(SLEEP))


def test_bootstrap_repeats_and_lies_where_resampled_means_do() -> None:
    low, high = bootstrap_interval(SLEEP)
    assert (low, high) == bootstrap_interval(SLEEP)
    draw = Random(1)
    means = sorted(fmean(draw.choices(SLEEP, k=10)) for _ in range(20_000))
    assert low == pytest.approx(means[500], abs=0.05)
    assert high == pytest.approx(means[-500], abs=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_sign_flip_p_is_exact_where_gains_tie(seed: int) -> None:
    draw = Random(seed)
    vanilla = [draw.randint(250, 330) for _ in range(draw.randint(6, 10))]
    kdci = [right + draw.randint(-4, 5) for right in vanilla]
    images = [k - v for k, v in zip(kdci, vanilla, strict=True)]
    percent = [
        round(100 * k / 360, 4) - round(100 * v / 360, 4)
        for k, v in zip(kdci, vanilla, strict=True)
    ]
    assert sign_flip_p(percent) == float(slow_p(images))


def test_sign_flip_p_agrees_with_scipy_where_nothing_ties() -> None:
    draw = Random(0)
    gains = [draw.gauss(0.5, 1) for _ in range(9)]
    found = stats.permutation_test(
        (gains,), fmean, permutation_type="samples", vectorized=False, n_resamples=math.inf
    )
    assert sign_flip_p(gains) == pytest.approx(found.pvalue, abs=1e-12)


def test_sign_flip_p_is_exact_up_to_twenty_pairs_and_never_zero_above() -> None:
    assert sign_flip_p([1.0] * 20) == 2 / 2**20
    assert sign_flip_p([1.0] * 30) == pytest.approx(1e-5)
    draw = Random(0)
    gains = [draw.gauss(0.2, 1) for _ in range(20)]
    more = [*gains, 0.0]  # the same p, drawn
    assert sign_flip_p(more) == pytest.approx(sign_flip_p(gains), abs=0.006)
    assert sign_flip_p(more) == sign_flip_p(more)


@pytest.mark.parametrize(("pairs", "least"), [(5, 0.0625), (6, 0.03125)])
def test_five_pairs_cannot_reach_five_percent(pairs: int, least: float) -> None:
    gains = [1.0] * pairs
    assert sign_flip_p(gains) == least
    assert (gain_of(gains).p is None) == (least > 0.05)


def test_too_few_pairs_say_no_more_than_they_can() -> None:
    assert gain_of([]) == Gain(0)
    assert gain_of([3.5]) == Gain(1, 3.5)
    two = gain_of([0.0, 1.0])
    assert two.p is None
    assert None not in (two.t_low, two.bootstrap_low, two.pairs_for_one_point)


@pytest.mark.parametrize("gains", [[5 / 18] * 2, [80.1 - 80.0, 90.1 - 90.0, 70.1 - 70.0]])
def test_equal_gains_tell_neither_an_interval_nor_a_number_of_pairs(gains: list[float]) -> None:
    gain = gain_of(gains)
    assert gain == Gain(len(gains), fmean(gains), stdev(gains))
    assert gain_cells(gain)[1:3] == (f"{fmean(gains):+.2f} ± 0.00", "all equal")


def test_one_image_apart_is_not_equal() -> None:
    gain = gain_of([0.0, 0.002])  # of 50,000
    assert None not in (gain.t_low, gain.bootstrap_low, gain.pairs_for_one_point)


@pytest.mark.parametrize(
    ("effect", "exact", "pairs"),
    [
        (2.0, 4.2207, 5),
        (1.0, 9.9379, 10),
        (0.8, 14.3028, 15),
        (0.5, 33.3671, 34),
        (0.2, 198.1508, 199),
        (0.1, 786.8089, 787),
    ],
)
def test_pairs_needed_are_those_of_statsmodels(effect: float, exact: float, pairs: int) -> None:
    # statsmodels 0.15.0: TTestPower().solve_power(effect, alpha=0.05, power=0.8); G*Power 3.1,
    # "means: difference between two dependent means", rounds up likewise: 34 at 0.5, 15 at 0.8.
    assert pairs_needed(1.0, 1 / effect) == pairs == math.ceil(exact)


@pytest.mark.parametrize(
    ("effect", "power"), [(1.0, 0.8030968566), (0.5, 0.2931756065), (0.1, 0.0592903009)]
)
def test_power_of_ten_pairs_is_that_of_statsmodels(effect: float, power: float) -> None:
    # statsmodels 0.15.0: TTestPower().power(effect, nobs=10, alpha=0.05)
    assert power_of(10, effect) == pytest.approx(power, abs=1e-9)


def test_pairs_needed_at_the_ends_of_what_accuracies_can_deviate() -> None:
    assert pairs_needed(1.0, 0.002) == 2
    assert pairs_needed(1.0, 100.0) == pytest.approx((1.959964 + 0.841621) ** 2 * 1e4, rel=1e-4)
