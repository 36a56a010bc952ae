from typing import Any

from src.report.cost import Cost, cost_of


def test_only_runs_that_made_a_stage_are_averaged(make_summary: Any) -> None:
    runs = [
        make_summary(seconds={"stage_a": 20.0, "dictionary": 0.25}),
        make_summary(seconds={"stage_a": 30.0, "dictionary": 0.0}),  # read, not built
        make_summary(seconds={"stage_a": 1.0}, substitution={"reused": True}),
    ]
    runs[0]["peak_memory_mb_by_stage"] |= {"dictionary": 1600.0}
    assert cost_of("stage_a", runs) == Cost(2, 25.0, 1500.0)
    assert cost_of("dictionary", runs) == Cost(1, 0.25, 1600.0)
    assert cost_of("stage_b", runs) == Cost(3, 9.0, 1200.0)


def test_a_stage_that_was_interrupted_is_not_averaged(make_summary: Any) -> None:
    resumed = make_summary(seconds={"stage_b": 1.0}) | {"resumed": ["stage_b"]}
    runs = [make_summary(), resumed]
    assert cost_of("stage_a", runs) == Cost(2, 20.0, 1500.0)
    assert cost_of("stage_b", runs) == Cost(1, 9.0, 1200.0)
    assert cost_of("stage_b", [resumed]) == Cost(0)


def test_a_stage_that_nobody_made_has_no_cost(make_summary: Any) -> None:
    assert cost_of("stage_a", [make_summary(substitution={"reused": True})]) == Cost(0)


def test_devices_are_not_averaged_over(make_summary: Any) -> None:
    reused = make_summary(device="card", substitution={"reused": True})
    runs = [make_summary(), reused]
    assert cost_of("stage_a", runs) == Cost(1, 20.0, 1500.0)
    assert cost_of("stage_b", runs) == Cost(2)


def test_memory_that_was_not_measured_of_all_has_no_mean(make_summary: Any) -> None:
    bare = make_summary()
    del bare["peak_memory_mb_by_stage"]
    assert cost_of("stage_b", [make_summary(), bare]) == Cost(2, 9.0, None)
