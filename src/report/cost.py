"""What a stage costs where it is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from src.report.summary import Summary

Stage = Literal["stage_a", "dictionary", "stage_b", "inside"]


@dataclass(frozen=True)
class Cost:
    """Means over the runs that made a stage at one go.

    Runs that reused it, or were interrupted in it and went on, are not counted: they have not
    measured what it costs.

    Attributes:
        made: Number of runs that made it so.
        seconds: Wall-clock time of the stage; ``None`` if no run made it, or if those that did
            ran on several devices.
        peak_memory_mb: Peak memory during the stage, MiB; what earlier stages of the run left in
            memory is part of it. ``None`` as above.
    """

    made: int
    seconds: float | None = None
    peak_memory_mb: float | None = None


def cost_of(stage: Stage, summaries: Sequence[Summary]) -> Cost:
    """Cost of one stage of equal runs.

    There is none of the teacher: a summary does not say whether it was trained or found.
    """
    makers = [summary for summary in summaries if _made(stage, summary)]
    if not makers or len({summary["device"] for summary in makers}) > 1:
        return Cost(len(makers))
    seconds = [summary["seconds"].get(stage) for summary in makers]
    memory = [summary.get("peak_memory_mb_by_stage", {}).get(stage) for summary in makers]
    return Cost(len(makers), _mean_of_all(seconds), _mean_of_all(memory))


def _made(stage: Stage, summary: Summary) -> bool:
    if stage == "stage_a" and summary["substitution"]["reused"]:
        return False
    if stage in summary.get("resumed", []):
        return False
    # A dictionary that was read was not measured, and has 0 seconds.
    return bool(summary["seconds"].get(stage))


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
