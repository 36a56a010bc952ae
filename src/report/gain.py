"""What paired gains say: their mean, how sure it is, and how many pairs an answer needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

# SciPy and NumPy take a second to load, which a table without pairs need not pay.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVEL = 0.05
POWER = 0.8
LEAST_FOR_INTERVAL = 2
LEAST_FOR_TEST = 6  # of five pairs no p is below 2 / 2^5 = 0.0625

_MOST_EXACT = 20  # pairs; a million patterns
_PATTERNS = 99_999  # of signs, drawn where there are more pairs
_RESAMPLES = 9_999
_SEED = 0
# Half the step of the largest test split in use (50,000 images), and above what rounding adds.
_TIE = 1e-3


@dataclass(frozen=True)
class Gain:
    """Accuracy with compensation minus that of the vanilla run of the same seed, in points.

    Attributes:
        pairs: Number of seeds for which both runs exist.
        mean: Mean gain; ``None`` without pairs.
        std: Sample standard deviation; ``None`` below two pairs, as are the intervals, which
            equal gains cannot tell either.
        t_low: Lower end of the 95% confidence interval of the mean by Student's t.
        t_high: Upper end.
        bootstrap_low: Lower end of the same by the bootstrap.
        bootstrap_high: Upper end.
        p: Two-sided p of the sign-flip test; ``None`` below six pairs, which cannot reach 0.05.
        pairs_for_one_point: About how many pairs show a gain of one point (power 0.8, 5%), by
            ``std``; ``None`` below two pairs, or if all gains are equal.
    """

    pairs: int
    mean: float | None = None
    std: float | None = None
    t_low: float | None = None
    t_high: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None
    p: float | None = None
    pairs_for_one_point: int | None = None


def gain_of(gains: Sequence[float]) -> Gain:
    """All that can be said of the paired gains; what needs more pairs is ``None``."""
    pairs = len(gains)
    if pairs < LEAST_FOR_INTERVAL:
        return Gain(pairs, fmean(gains) if gains else None)
    std = stdev(gains)
    p = sign_flip_p(gains) if pairs >= LEAST_FOR_TEST else None
    if std <= _TIE:  # an interval of no width would claim certainty
        return Gain(pairs, fmean(gains), std, p=p)
    intervals = (*t_interval(gains), *bootstrap_interval(gains))
    return Gain(pairs, fmean(gains), std, *intervals, p, pairs_needed(1.0, std))


def t_interval(gains: Sequence[float]) -> tuple[float, float]:
    """95% confidence interval of the mean by Student's t; of two gains or more."""
    from scipy.stats import t

    half = float(t.isf(LEVEL / 2, len(gains) - 1)) * stdev(gains) / len(gains) ** 0.5
    return fmean(gains) - half, fmean(gains) + half


def bootstrap_interval(gains: Sequence[float]) -> tuple[float, float]:
    """95% confidence interval of the mean by the percentile bootstrap; of two gains or more.

    Percentile, not BCa: BCa estimates two corrections from the same few gains, and has none where
    all are equal, which a small test split makes common. Over 2000 simulated sets of 3, 6, 10 and
    20 normal gains the percentile interval held the mean in 76, 87, 90 and 92%, BCa in 73, 87, 90
    and 92%, Student's t in 95% throughout (of strongly skewed ones, lognormal: 62, 76, 80, 87;
    60, 78, 83, 88; 83, 83, 84, 88). Both are too narrow for few pairs: the t interval is shown.
    """
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        (np.asarray(gains),),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=1 - LEVEL,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def sign_flip_p(gains: Sequence[float]) -> float:
    """Two-sided p of the sign-flip test: how often random signs give a mean as far from zero.

    Exact, over all 2^n patterns of signs, up to 20 gains; above, over 99,999 drawn with a fixed
    seed and the observed one. Not by ``scipy.stats.permutation_test``: gains are multiples of one
    test image, so that sums tie, and it takes ties that rounding has parted for smaller ones (of
    300 sets of 6 to 10 gains on 360 images 181 got another p, 0.5 instead of 0.75 among them).
    """
    import numpy as np

    values = np.asarray(gains, dtype=np.float64)
    exact = len(values) <= _MOST_EXACT
    sums = _all_sums(values) if exact else _some_sums(values)
    extreme = np.abs(sums) >= abs(values.sum()) - _TIE
    return float(extreme.mean())


def _all_sums(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Sums under all patterns of signs but for the first: the other half mirrors them."""
    import numpy as np

    sums = values[:1]
    for value in values[1:]:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _some_sums(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    import numpy as np

    draw = np.random.default_rng(_SEED)
    signs = draw.choice(np.array([-1, 1], dtype=np.int8), (_PATTERNS, len(values)))
    # With the observed pattern among them, p is never 0 (Phipson and Smyth 2010).
    return np.append(signs @ values, values.sum())


def power_of(pairs: int, effect: float) -> float:
    """Power of the two-sided paired t test at 5%.

    Args:
        pairs: Their number, two or more.
        effect: True mean of the differences by their standard deviation.
    """
    from scipy.stats import nct, t

    free, shift = pairs - 1, effect * pairs**0.5
    bound = t.isf(LEVEL / 2, free)
    return float(nct.sf(bound, free, shift) + nct.cdf(-bound, free, shift))


def pairs_needed(points: float, std: float) -> int:
    """Fewest pairs with which a paired t test (5%, two-sided) has power 0.8.

    As rough as ``std`` is: that of three pairs is 0.16 to 1.9 of the true one (95%, normal).

    Args:
        points: Gain to be seen.
        std: Deviation of the paired gains, positive.
    """
    effect = points / std
    high = LEAST_FOR_INTERVAL
    while power_of(high, effect) < POWER:
        high *= 2
    low = max(LEAST_FOR_INTERVAL, high // 2)
    while low < high:
        middle = (low + high) // 2
        if power_of(middle, effect) < POWER:
            low = middle + 1
        else:
            high = middle
    return low
