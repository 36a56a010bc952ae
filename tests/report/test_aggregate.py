import math
import re
from pathlib import Path
from typing import Any

import pytest

from src.common.errors import UserError
from src.report.aggregate import aggregate, vanilla_folders
from src.report.apart import without_contradictions
from src.report.collection import Damaged, Found
from src.report.cost import Cost
from src.report.gain import Gain

F = "outputs/none_0_80.0"  # the folder of a vanilla run of seed 0


def test_mean_and_sample_std_over_seeds(make_summary: Any) -> None:
    runs = [make_summary(last, seed=seed) for seed, last in enumerate([80.0, 82.0, 87.0])]
    (row,) = aggregate(runs)
    assert row.seeds == (0, 1, 2)
    assert row.last_mean == pytest.approx(83.0)
    assert row.last_std == pytest.approx(math.sqrt((9 + 1 + 16) / 2))
    assert row.best_mean == 81.0
    assert row.folders == tuple(run["folder"] for run in runs)


def test_one_seed_has_no_std(make_summary: Any) -> None:
    (row,) = aggregate([make_summary(80.0)])
    assert row.last_std is None


def test_gain_is_paired_by_seed_and_skips_missing_pairs(make_summary: Any, make_kdci: Any) -> None:
    vanilla = [make_summary(last, seed=seed) for seed, last in [(0, 80.0), (1, 90.0), (7, 10.0)]]
    kdci = [make_kdci(last, seed=seed) for seed, last in [(0, 81.0), (1, 93.0), (2, 50.0)]]
    first, second = aggregate(kdci + vanilla)
    assert (first.kdci, first.gain) == ("none", Gain(0))
    assert second.gain.pairs == 2
    assert second.gain.mean == pytest.approx(2.0)
    assert second.gain.std == pytest.approx(math.sqrt(2.0))
    assert second.last_mean == pytest.approx((81 + 93 + 50) / 3)


def test_without_any_vanilla_run_there_is_no_gain(make_kdci: Any) -> None:
    (row,) = aggregate([make_kdci(81.0)])
    assert row.gain == Gain(0)


@pytest.mark.parametrize(
    "change",
    [
        {"budget": "paper"},
        {"dataset": "cifar10"},
        {"baseline": "cmi"},
        {"student": {"name": "convnet_l"}},
        {"teacher": {"sha256": "another training of the same network"}},
        {"substitution": {"mode": "online"}},
        {"settings": {"student.lr": 0.2}},
        {"contents": {"dataset": "other images"}},
        {"contents": {"pool": "other images"}},
        {"code": {"teacher": "t2"}},
        {"code": {"stage_a": "a2"}},
        {"code": {"stage_b": "b2"}},
    ],
    ids=str,
)
def test_different_settings_neither_mix_nor_pair(
    make_summary: Any, make_kdci: Any, change: dict[str, Any]
) -> None:
    runs = [make_summary(80.0), make_summary(90.0, **change), make_kdci(95.0, **change)]
    rows = aggregate(runs)
    assert sorted(row.last_mean for row in rows) == [80.0, 90.0, 95.0]
    assert [row.gain.mean for row in rows if row.kdci == "backdoor"] == [5.0]


def test_differing_settings_are_named_and_vanilla_leads_each(
    make_summary: Any, make_kdci: Any
) -> None:
    fast = {"settings": {"student.lr": 0.2}}
    runs = [make_kdci(83.0), make_kdci(84.0, **fast), make_summary(81.0, **fast), make_summary()]
    rows = aggregate(runs)
    assert [(row.settings, row.kdci) for row in rows] == [
        (("student.lr=0.1",), "none"),
        (("student.lr=0.1",), "backdoor"),
        (("student.lr=0.2",), "none"),
        (("student.lr=0.2",), "backdoor"),
    ]


def test_vanilla_collapses_whatever_its_kdci_options_say(make_summary: Any) -> None:
    runs = [
        make_summary(80.0, seed=0, kdci={"N": 8, "strength": 0.5}),
        make_summary(82.0, seed=1, kdci={"N": None}),
    ]
    (row,) = aggregate(runs)
    assert (row.num_prototypes, row.settings, row.seeds) == ("", (), (0, 1))


def test_only_differing_kdci_options_are_shown(make_kdci: Any) -> None:
    runs = [make_kdci(81.0), make_kdci(82.0, kdci={"strength": 0.5})]
    assert [row.settings for row in aggregate(runs)] == [("strength=0.5",), ("strength=1.0",)]


def test_options_of_one_kind_are_not_compared_with_another_kind(make_kdci: Any) -> None:
    runs = [make_kdci(81.0), make_kdci(82.0, kdci={"name": "prior", "attention": "uniform"})]
    assert [(row.kdci, row.settings) for row in aggregate(runs)] == [
        ("backdoor", ()),
        ("prior", ()),
    ]


def test_dictionary_sizes_sort_as_numbers(make_kdci: Any) -> None:
    runs = [make_kdci(80.0, kdci={"N": size}) for size in ("auto", 128, 16, 4)]
    assert [row.num_prototypes for row in aggregate(runs)] == ["4", "16", "128", "auto"]


def test_the_number_of_prototypes_is_that_of_the_dictionary(make_kdci: Any) -> None:
    runs = [make_kdci(80.0 + n, kdci={"N": 16, "dictionary.N": n}) for n in (8, 16, 32)]
    rows = aggregate(runs)
    assert [row.num_prototypes for row in rows] == ["8", "16", "32"]
    assert [row.settings for row in rows] == [()] * 3  # one curve over N
    (row,) = aggregate([runs[0], make_kdci(88.0, kdci={"N": 8, "dictionary.N": 8})])
    assert (row.num_prototypes, len(row.copies)) == ("8", 1)


def test_what_does_not_shape_the_result_makes_no_row(make_kdci: Any) -> None:
    runs = [
        make_kdci(80.0, seed=seed, config={"paths": {"key": seed}}, git_revision=str(seed))
        for seed in range(3)
    ]
    (row,) = aggregate(runs)
    assert (row.seeds, row.settings) == ((0, 1, 2), ())


@pytest.mark.parametrize(
    ("change", "labels"),
    [
        ({"contents": {"dataset": "0123456789"}}, ["data=0123456", "data=d1d1d1d"]),
        ({"contents": {"pool": "0123456789"}}, ["pool=0123456"]),
        ({"contents": {"teacher.checkpoint": "0123456789"}}, ["checkpoint=0123456"]),
        ({"teacher": {"sha256": "0123456789"}}, ["teacher=0123456", "teacher=ab12"]),
    ],
    ids=str,
)
def test_other_data_and_teachers_are_named(
    make_summary: Any, make_kdci: Any, change: Any, labels: list[str]
) -> None:
    runs = [make_summary(80.0), make_kdci(81.0), make_summary(70.0, **change)]
    rows = aggregate([*runs, make_kdci(75.0, **change)])
    assert sorted({label for row in rows for label in row.settings}) == labels
    assert [row.gain.mean for row in rows if row.kdci != "none"] in ([1.0, 5.0], [5.0, 1.0])


@pytest.mark.parametrize("part", ["teacher", "stage_a", "stage_b"])
def test_other_code_is_named_by_one_hash_for_both_runs_of_a_pair(
    make_summary: Any, make_kdci: Any, part: str
) -> None:
    change = {"code": {part: "changed"}}
    runs = [make_summary(80.0), make_kdci(81.0), make_summary(70.0, seed=1, **change)]
    rows = aggregate([*runs, make_kdci(75.0, seed=1, **change)])
    labels = [row.settings for row in rows]
    assert all(len(label) == 1 and re.fullmatch("code=[0-9a-f]{7}", *label) for label in labels)
    assert labels[0] == labels[1] != labels[2] == labels[3]
    assert {row.gain.mean for row in rows} == {None, 1.0, 5.0}


def test_other_code_of_the_compensation_leaves_the_vanilla_run_alone(
    make_summary: Any, make_kdci: Any
) -> None:
    runs = [make_summary(80.0), make_kdci(81.0), make_kdci(83.0, code={"kdci": "k234567890"})]
    rows = aggregate(runs)
    assert [(row.settings, row.gain.mean) for row in rows] == [
        ((), None),
        (("kdci_code=k1",), 1.0),
        (("kdci_code=k234567",), 3.0),
    ]


def test_baselines_that_read_other_data_are_told_apart_in_their_table(make_summary: Any) -> None:
    other = make_summary(90.0, baseline="cmi", contents={"dataset": "0123456789"})
    pool = make_summary(70.0, baseline="dfnd", contents={"pool": "p" * 9})
    rows = aggregate([make_summary(80.0), other, pool])
    assert [(row.baseline, row.settings) for row in rows] == [
        ("cmi", ("data=0123456",)),
        ("dafl", ("data=d1d1d1d",)),
        ("dfnd", ("data=d1d1d1d",)),
    ]


def test_hashes_that_look_alike_are_not_averaged(make_summary: Any) -> None:
    alike = {"contents": {"dataset": "d1d1d1d and then another"}}
    assert len(aggregate([make_summary(80.0), make_summary(90.0, seed=1, **alike)])) == 2


def test_a_copy_is_counted_once(make_summary: Any) -> None:
    runs = [make_summary(80.0), make_summary(82.0, seed=1), make_summary(80.0)]
    runs[2]["folder"] = "copy/run"
    (row,) = aggregate(runs)
    assert (row.seeds, row.copies, row.last_mean) == ((0, 1), ("copy/run",), 81.0)
    assert "copy/run" not in row.folders


def test_compensated_and_stage_a_average_what_is_known(make_kdci: Any) -> None:
    runs = [
        make_kdci(80.0, seed=0, acc1={"last": 80.0, "compensated": 79.0}),
        make_kdci(81.0, seed=1, acc1={"last": 81.0, "compensated": 77.0, "stage_a": 70.0}),
    ]
    (row,) = aggregate(runs)
    assert (row.compensated_mean, row.stage_a_mean) == (78.0, 70.0)


def test_devices_are_collected(make_summary: Any) -> None:
    (row,) = aggregate([make_summary(device="card b"), make_summary(seed=1, device="card a")])
    assert row.devices == ("card a", "card b")


def test_a_reused_stage_a_is_no_part_of_its_cost(make_summary: Any) -> None:
    reused = {"substitution": {"reused": True}, "seconds": {"stage_a": 0.5, "stage_b": 11.0}}
    (row,) = aggregate([make_summary(seed=0), make_summary(seed=1, **reused)])
    assert row.stage_a == Cost(1, 20.0, 1500.0)
    assert row.stage_b == Cost(2, 10.0, 1200.0)
    assert row.dictionary == Cost(0)


def test_teachers_of_two_baselines_in_one_table_are_told_apart(make_summary: Any) -> None:
    other = {"name": "convnet_m", "acc1": 97.2501, "sha256": "cd34"}
    rows = aggregate([make_summary(80.0), make_summary(81.0, baseline="cmi", teacher=other)])
    assert {row.settings for row in rows} == {("teacher=ab12",), ("teacher=cd34",)}
    other["acc1"] = 97.4  # which the title says
    rows = aggregate([make_summary(80.0), make_summary(81.0, baseline="cmi", teacher=other)])
    assert {row.settings for row in rows} == {()}


def test_unfinished_runs_are_left_out(make_summary: Any) -> None:
    failed = make_summary(status="failed", seed=1)
    del failed["acc1"], failed["seconds"]
    (row,) = aggregate([failed, make_summary(seed=0), make_summary(status="running", seed=2)])
    assert row.seeds == (0,)


def test_the_same_seed_twice_is_refused_and_both_folders_are_named(make_summary: Any) -> None:
    with pytest.raises(UserError, match=r"none_0_80\.0 and outputs/none_0_85\.0 both hold seed 0"):
        aggregate([make_summary(80.0), make_summary(85.0)])


def test_by_seed_gives_one_row_per_run_with_its_own_gain(
    make_summary: Any, make_kdci: Any
) -> None:
    runs = [
        make_summary(80.0),
        make_summary(82.0, seed=1),
        make_kdci(81.0),
        make_kdci(85.0, seed=1),
    ]
    rows = aggregate(runs, by_seed=True)
    assert [(row.kdci, row.settings, row.gain.mean) for row in rows] == [
        ("none", ("seed=0",), None),
        ("none", ("seed=1",), None),
        ("backdoor", ("seed=0",), 1.0),
        ("backdoor", ("seed=1",), 3.0),
    ]


def test_a_row_is_over_all_its_seeds_in_order(make_summary: Any) -> None:
    ends = [(1, 82.0, 90.0), (0, 80.0, 81.0)]
    runs = [
        make_summary(last, seed=seed, acc1={"last": last, "best": b}) for seed, last, b in ends
    ]
    (row,) = aggregate([*runs, *map(copy_of, runs)])
    assert (row.seeds, row.last_mean, row.best_mean) == ((0, 1), 81.0, 85.5)
    assert row.last_std == pytest.approx(math.sqrt(2.0))
    assert row.folders == ("outputs/none_0_80.0", "outputs/none_1_82.0")
    assert row.copies == ("copy of outputs/none_0_80.0", "copy of outputs/none_1_82.0")


def copy_of(run: Any) -> Any:
    return run | {"folder": f"copy of {run['folder']}"}


def test_every_copy_is_named(make_summary: Any) -> None:
    run = make_summary(80.0)
    (row,) = aggregate([run, copy_of(run), copy_of(copy_of(run))])
    assert row.copies == ("copy of outputs/none_0_80.0", "copy of copy of outputs/none_0_80.0")


def test_baselines_stand_together_whatever_their_teachers_hidden_digits(make_summary: Any) -> None:
    accuracies = [("cmi", 97.2502), ("dafl", 97.2501), ("cmi", 97.2501), ("dafl", 97.2502)]
    runs = [
        make_summary(teacher={"acc1": acc1, "sha256": f"{acc1}"}, baseline=baseline)
        for baseline, acc1 in accuracies
    ]
    assert [row.baseline for row in aggregate(runs)] == ["cmi", "cmi", "dafl", "dafl"]


def test_compensations_that_look_alike_are_not_averaged(make_kdci: Any) -> None:
    runs = [make_kdci(80.0 + n, seed=n, code={"kdci": f"k234567{n}"}) for n in (0, 1)]
    assert [row.last_mean for row in aggregate(runs)] == [80.0, 81.0]


def test_settings_of_the_pair_stand_before_those_of_the_compensation(make_kdci: Any) -> None:
    fast = {"settings": {"student.lr": 0.2}, "kdci": {"strength": 0.5}}
    rows = aggregate([make_kdci(80.0), make_kdci(81.0, **fast)], by_seed=True)
    assert [row.settings for row in rows] == [
        ("student.lr=0.1", "strength=1.0", "seed=0"),
        ("student.lr=0.2", "strength=0.5", "seed=0"),
    ]


def test_an_option_that_differs_in_one_kind_is_not_named_in_another(make_kdci: Any) -> None:
    runs = [make_kdci(81.0), make_kdci(82.0, kdci={"strength": 0.5})]
    rows = aggregate([*runs, make_kdci(83.0, kdci={"name": "prior"})])
    assert [row.settings for row in rows] == [("strength=0.5",), ("strength=1.0",), ()]


def test_a_setting_in_another_order_is_the_same(make_summary: Any) -> None:
    settings = [{"augment": {"crop": 4, "flip": True}}, {"augment": {"flip": True, "crop": 4}}]
    runs = [make_summary(settings=each, seed=n) for n, each in enumerate(settings)]
    assert [row.settings for row in aggregate([*runs, make_summary(baseline="cmi")])] == [()] * 2


def test_teachers_of_other_data_are_not_named_besides(make_summary: Any) -> None:
    other = {"teacher": {"sha256": "cd34"}, "contents": {"dataset": "0123456789"}}
    rows = aggregate([make_summary(80.0), make_summary(81.0, **other)])
    assert {row.settings for row in rows} == {("data=d1d1d1d",), ("data=0123456",)}


def test_without_recorded_classes_there_is_no_unevenness(make_summary: Any) -> None:
    (row,) = aggregate([make_summary(class_proportions=[])])
    assert row.unevenness is None


def test_results_that_differ_only_in_the_best_epoch_contradict_each_other(
    make_summary: Any,
) -> None:
    runs = [make_summary(80.0, acc1={"best": best}) for best in (81.0, 82.0)]
    with pytest.raises(UserError, match="both hold seed 0"):
        aggregate(runs)
    first = Damaged(Path("a"), "damaged")
    kept, damaged = without_contradictions(Found(runs, [Damaged(Path("z"), "too"), first]))
    assert kept == []
    assert [str(each.path) for each in damaged] == ["a", *[f"{F}/summary.json"] * 2, "z"]


def test_an_unfinished_run_contradicts_none_and_is_nobodys_pair(
    make_summary: Any, make_kdci: Any
) -> None:
    failed = make_summary(status="failed")
    del failed["acc1"], failed["teacher"]["sha256"]
    runs = [make_summary(80.0), failed, make_kdci(81.0), make_kdci(82.0, seed=1)]
    assert without_contradictions(Found(runs, [])) == (runs, [])
    assert vanilla_folders(runs) == {"outputs/backdoor_0_81.0": F}
