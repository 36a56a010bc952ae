from typing import Any

import pytest

from src.report.aggregate import aggregate
from src.report.page.results import results
from src.report.shift import by_shift, controlled_shift

EVEN, UNEVEN = [0.5, 0.5], [0.9, 0.1]
NATS = "0.368"  # 0.9 ln 1.8 + 0.1 ln 0.2


@pytest.fixture
def runs(make_summary: Any, make_kdci: Any) -> list[Any]:
    found = []
    for ratio, shares, gains in ((1, EVEN, (0.0, 0.5)), (9, UNEVEN, (2.0, 4.0))):
        pool = {"class_proportions": shares, "settings": {"pool.class_ratio": ratio}}
        for seed, gain in enumerate(gains):
            found.append(make_summary(80.0, seed=seed, **pool))
            found.append(make_kdci(80.0 + gain, seed=seed, **pool))
    return found


def test_gains_stand_by_unevenness(runs: list[Any]) -> None:
    (block,) = controlled_shift(aggregate(runs))
    (part,) = block.parts
    assert [line[3] for line in part.lines] == ["0.000", NATS]
    assert [line[4] for line in part.lines] == ["pool.class_ratio=1", "pool.class_ratio=9"]
    assert [line[7] for line in part.lines] == ["+0.25 ± 0.35", "+3.00 ± 1.41"]


def test_other_settings_are_lines_of_their_own(make_summary: Any, make_kdci: Any) -> None:
    runs = []
    for ratio, shares in ((1, EVEN), (9, UNEVEN)):
        pool = {"class_proportions": shares, "settings": {"pool.class_ratio": ratio}}
        runs.append(make_summary(80.0, **pool))
        runs += [make_kdci(81.0, kdci={"strength": each}, **pool) for each in (0.5, 1.0)]
    assert [len(found) for found in by_shift(aggregate(runs)).values()] == [2, 2]


@pytest.mark.parametrize(("codes", "found"), [(("a1",), [[0, 1]]), (("a1", "a2"), [])])
def test_a_pool_of_another_class_has_other_code(
    make_summary: Any, make_kdci: Any, codes: tuple[str, ...], found: list[list[float]]
) -> None:
    """It is no setting beside the pool, as long as the code was not edited in between."""
    photos = {"pool.foreign": 0.5, "pool.other._target_": "PhotoPatches"}
    digits = {"pool.foreign": 0, "pool.other": None}
    runs = []
    for gain, (settings, shares, of_pool) in enumerate(
        ((digits, EVEN, codes), (photos, UNEVEN, ("p1",)))
    ):
        for code in of_pool:
            pool = {"settings": settings, "class_proportions": shares, "code": {"stage_a": code}}
            runs += [make_summary(80.0, **pool), make_kdci(80.0 + gain, **pool)]
    lines = by_shift(aggregate(runs)).values()
    assert [[row.gain.mean for row in line] for line in lines] == found


def test_pools_of_one_class_and_two_codes_are_no_series(make_summary: Any, make_kdci: Any) -> None:
    runs = []
    for foreign, shares, code in ((0, EVEN, "p1"), (0.5, UNEVEN, "p2")):
        settings = {"pool.foreign": foreign, "pool._target_": "Controlled"}
        pool = {"settings": settings, "class_proportions": shares, "code": {"stage_b": code}}
        runs += [make_summary(80.0, **pool), make_kdci(81.0, **pool)]
    assert by_shift(aggregate(runs)) == {}


def test_one_shift_is_no_series(runs: list[Any]) -> None:
    assert list(controlled_shift(aggregate(runs[:4]))) == []


def test_runs_without_proportions_have_no_unevenness(make_summary: Any) -> None:
    (row,) = aggregate([make_summary(80.0, class_proportions=[])])
    assert row.unevenness is None


def test_the_page_draws_them(runs: list[Any]) -> None:
    rows = aggregate(runs)
    singles = {row.folders[0]: row for row in aggregate(runs, by_seed=True)}
    (block,) = controlled_shift(rows)
    topics = {topic.heading: topic for topic in results(block, singles)}
    (plot,) = topics["Gain over unevenness"].plots
    assert "N=16, 0.3681: +3.00" in plot.alt
    (axes,) = plot.figure.axes
    (line,) = axes.containers
    assert list(line[0].get_ydata()) == [0.25, 3.0]
