"""What a summary says of a finished run."""

from unittest.mock import MagicMock

import pytest

from src.common.measure import Measurement
from src.pipeline import outcome


def test_costs_of_a_stage_that_was_taken_up_again_are_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outcome, "evaluate_every", lambda *_: 1)
    job = MagicMock(costs={"stage_b": Measurement(9.0, 1200.0)}, resumed={"stage_b", "stage_a"})
    substitution = MagicMock(info=MagicMock(acc1_stage_a=None))
    results = outcome._results(
        job, MagicMock(acc1=97.25), substitution, MagicMock(acc1={"last": 80.0})
    )
    assert results["seconds"] == {"stage_b": 9.0, "total": 9.0}
    assert results["resumed"] == ["stage_a", "stage_b"]
