from typing import Any

import pytest

from src.report.aggregate import aggregate
from src.report.dictionary_size import dictionary_size


def test_one_line_per_method_and_one_column_per_size(make_summary: Any, make_kdci: Any) -> None:
    runs = [make_summary(80.0 + 2 * seed, seed=seed) for seed in range(2)]
    for size, gain in ((8, 1.0), (64, 3.0), (16, 2.0)):
        runs += [
            make_kdci(80.0 + 2 * seed + gain, seed=seed, kdci={"N": size, "dictionary.N": size})
            for seed in range(2)
        ]
    runs.append(make_kdci(70.0, seed=0, baseline="cmi"))  # one size is no curve
    (block,) = dictionary_size(aggregate(runs))
    accuracies, gains = block.parts
    assert accuracies.header[3:] == ("vanilla", "N=8", "N=16", "N=64")
    (line,) = accuracies.lines
    assert line[0] == "dafl"
    assert line[3:] == ("81.00 ± 1.41", "82.00 ± 1.41", "83.00 ± 1.41", "84.00 ± 1.41*")
    assert gains.lines == [
        (*line[:3], "+1.00 ± 0.00 (2)", "+2.00 ± 0.00 (2)", "+3.00 ± 0.00 (2)*")
    ]


def test_one_size_shows_nothing(make_summary: Any, make_kdci: Any) -> None:
    assert list(dictionary_size(aggregate([make_summary(80.0), make_kdci(81.0)]))) == []


def test_a_size_that_did_not_run_is_a_dash(make_summary: Any, make_kdci: Any) -> None:
    runs = [make_kdci(81.0, kdci={"N": 8}), make_kdci(82.0, kdci={"N": 16})]
    runs += [make_kdci(60.0 + n, baseline="cmi", kdci={"N": n}) for n in (8, 32)]
    (block,) = dictionary_size(aggregate(runs))
    cmi, dafl = block.parts[0].lines
    assert cmi[3:] == ("-", "68.00 (n=1)", "-", "92.00 (n=1)*")
    assert dafl[3:] == ("-", "81.00 (n=1)", "82.00 (n=1)*", "-")


def test_equal_means_are_all_marked(make_kdci: Any) -> None:
    # Of the same number of right answers, as summaries round them.
    means = {8: (83.3333, 83.3333), 16: (66.6667, 100.0), 32: (80.0, 86.66)}
    runs = [
        make_kdci(last, seed=seed, kdci={"N": size})
        for size, found in means.items()
        for seed, last in enumerate(found)
    ]
    (block,) = dictionary_size(aggregate(runs))
    (line,) = block.parts[0].lines
    assert [cell.endswith("*") for cell in line[4:]] == [True, True, False]


@pytest.mark.parametrize("has_own", [True, False])
def test_vanilla_is_the_one_of_the_gains(make_summary: Any, make_kdci: Any, has_own: bool) -> None:
    """Of a key that only some runs have, those without it have no label."""
    nesterov = {"distill.optimizer.nesterov": True}
    runs = [make_summary(70.0)]
    runs += [make_summary(80.0, settings=nesterov)] * has_own
    runs += [make_kdci(81.0 + size, kdci={"N": size}, settings=nesterov) for size in (8, 16)]
    (block,) = dictionary_size(aggregate(runs))
    (line,) = block.parts[0].lines
    assert line[2] == "distill.optimizer.nesterov=true"
    assert line[3] == ("80.00 (n=1)" if has_own else "-")
