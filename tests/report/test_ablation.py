from typing import Any

import pytest

from src.report.ablation import ablation, differences

OPTIONS = {
    "adjustment.attention": "additive",
    "adjustment.prior": "proportion",
    "dictionary.prototypes": "kmeans",
}
LAST = {  # form: seeds 0, 1, 2
    "full": [80.0, 82.0, 84.0],
    "vanilla": [79.0, 80.0, 81.0],
    "random lambda": [78.0, 81.0, 83.5],
    "random z": [78.0, 80.0, 82.0],
    "no P(z)": [79.5, 81.0, 84.0],
}
CHANGES = {
    "random lambda": {"adjustment.attention": "random"},
    "random z": {"dictionary.prototypes": "random"},
    "no P(z)": {"adjustment.prior": "uniform"},
}


@pytest.fixture
def make_form(make_summary: Any, make_kdci: Any) -> Any:
    def make(form: str, last: float, seed: int, **options: Any) -> Any:
        if form == "vanilla":
            return make_summary(last, seed=seed)
        return make_kdci(last, seed=seed, kdci=OPTIONS | CHANGES.get(form, {}) | options)

    return make


@pytest.fixture
def runs(make_form: Any) -> list[Any]:
    return [make_form(f, last, seed) for f in LAST for seed, last in enumerate(LAST[f])]


def test_differences_from_the_full_method_are_paired_by_seed(runs: list[Any]) -> None:
    found = {each.form: each for each in differences(runs)}
    assert list(found) == ["vanilla", *CHANGES]
    assert found["vanilla"].gain.mean == pytest.approx(-2.0)  # -1, -2, -3
    assert found["vanilla"].gain.std == pytest.approx(1.0)
    assert found["random lambda"].gain.mean == pytest.approx((-2 - 1 - 0.5) / 3)
    # Student's t of two degrees of freedom: 4.302653 deviations of the mean at 97.5%.
    half = 4.302653 / 3**0.5
    assert found["vanilla"].gain.t_low == pytest.approx(-2.0 - half)
    # All three differ by -2: no spread, and an interval of no width.
    assert (found["random z"].gain.mean, found["random z"].gain.std) == (-2.0, 0.0)


def test_a_seed_that_one_form_lacks_counts_for_neither(runs: list[Any]) -> None:
    without = [run for run in runs if (run["seed"], run["acc1"]["last"]) != (2, 84.0)]
    found = {each.form: each for each in differences(without)}
    assert found["no P(z)"].gain.pairs == 2
    assert (found["no P(z)"].last, found["no P(z)"].full_last) == (80.25, 81.0)


def test_forms_of_another_size_are_compared_with_that_size(
    runs: list[Any], make_form: Any
) -> None:
    other = [make_form(form, 50.0, 0, N=64) for form in ("full", "random z")]
    found = [each for each in differences([*runs, *other]) if each.full.num_prototypes == "64"]
    assert {each.form: each.gain.mean for each in found} == {"vanilla": 29.0, "random z": 0.0}


def test_an_ablation_is_compared_with_the_full_form_whatever_it_is_called(
    make_form: Any,
) -> None:
    full = [make_form("full", last, seed) for seed, last in enumerate(LAST["full"])]
    named = [
        make_form("random z", last, seed, name="random_prototypes")
        for seed, last in enumerate(LAST["random z"])
    ]
    (found,) = differences([*full, *named])
    assert (found.form, found.gain.pairs, found.gain.mean) == ("random z", 3, -2.0)


def test_without_an_ablated_form_there_is_no_ablation(runs: list[Any]) -> None:
    assert list(ablation([run for run in runs if run["acc1"]["last"] in (80.0, 79.0)])) == []


def test_the_table_has_the_full_method_on_top(runs: list[Any]) -> None:
    (block,) = ablation(runs)
    assert block.title == "digits: convnet_m (97.25) -> convnet_s, budget laptop, replay"
    (part,) = block.parts
    assert part.header[3:8] == ("settings", "form", "last", "pairs", "difference")
    assert [line[4:8] for line in part.lines][:3] == [
        ("full", "82.00", "-", "-"),
        ("vanilla", "80.00", "3", "-2.00 ± 1.00"),
        ("random lambda", "80.83", "3", "-1.17 ± 0.76"),
    ]
    assert {line[3] for line in part.lines} == {"-"}  # what is ablated is no setting of the row
