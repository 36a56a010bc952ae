"""From the summaries of many runs to one row per setting, averaged over seeds."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from src.common.divergence import divergence_from_uniform
from src.report.apart import VANILLA, Run, folder_of, table_of, tell_apart
from src.report.cost import Cost, cost_of
from src.report.gain import Gain, gain_of
from src.report.summary import Summary


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but their seed. Accuracies are percent on the test split.

    Attributes:
        dataset: Name of the data set.
        budget: Name of the budget; rows of different budgets are never comparable.
        mode: ``replay`` or ``online`` substitution data.
        teacher: Name of the teacher network.
        teacher_acc1: Accuracy of the teacher.
        student: Name of the student network.
        baseline: Name of the data-free method.
        kdci: Name of the compensation, ``none`` for the vanilla baseline.
        num_prototypes: N, empty for the vanilla baseline.
        settings: Whatever else tells this row from its neighbours, as ``key=value``: options that
            shape the result; ``data``, ``pool``, ``checkpoint`` and ``teacher``, hashes of what
            was read or trained; ``code`` and ``kdci_code``, hashes of the source.
        seeds: The seeds averaged over.
        last_mean: Mean accuracy of the plain student after the last epoch.
        last_std: Sample standard deviation of the same; ``None`` for one seed.
        best_mean: Mean of the best accuracy of each run.
        compensated_mean: Mean accuracy with the compensation left on at test time.
        stage_a_mean: Mean accuracy of the student trained alongside stage (a).
        gain: Of ``last``, paired by seed; without pairs for the vanilla baseline.
        unevenness: Mean divergence of the classes that the teacher predicts for the substitution
            data from equal shares, in nats; ``None`` if it was not recorded.
        stage_a: Cost of stage (a) in the runs that made it.
        dictionary: Cost of the confounder dictionary in the runs that built it.
        stage_b: Cost of stage (b).
        inside: Cost of the measures at the end, no part of a method.
        devices: What the runs were measured on.
        folders: The run folders.
        copies: Folders that hold a run of ``folders`` once more, with the same result; they are
            not counted.
    """

    dataset: str
    budget: str
    mode: str
    teacher: str
    teacher_acc1: float
    student: str
    baseline: str
    kdci: str
    num_prototypes: str
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    last_mean: float
    last_std: float | None
    best_mean: float
    compensated_mean: float | None
    stage_a_mean: float | None
    gain: Gain
    unevenness: float | None
    stage_a: Cost
    dictionary: Cost
    stage_b: Cost
    inside: Cost
    devices: tuple[str, ...]
    folders: tuple[str, ...]
    copies: tuple[str, ...] = ()


def aggregate(summaries: Iterable[Summary], by_seed: bool = False) -> list[Row]:
    """Group finished runs by everything but their seed, vanilla first in each block.

    A block is one data set, budget, mode, teacher, student and baseline. Within it, runs stay
    apart that differ in any setting that shapes the result, in the content of what they read, in
    the source that computed them, or in the teacher's weights; what differs becomes the row's
    ``settings``. A gain pairs runs that are equal in all of this but the compensation. Of a run
    that lies in two folders one is counted. Unfinished runs are left out.

    Args:
        summaries: Runs, in any order.
        by_seed: Keep seeds apart: one row per run, its gain against its own vanilla run.

    Raises:
        UserError: If two runs are the same in everything, seed included, but their results.
    """
    runs = tell_apart(summary for summary in summaries if summary["status"] == "finished")
    groups: defaultdict[tuple[Any, ...], list[tuple[Run, float | None]]] = defaultdict(list)
    pairs = zip(runs, paired_gains(runs), strict=True)
    for run, gain in sorted(pairs, key=lambda pair: pair[0].summary["seed"]):
        seed = (run.summary["seed"],) if by_seed else ()
        groups[(*order(run), seed)].append((run, gain))
    rows = []
    for key in sorted(groups):
        gains = [gain for _, gain in groups[key] if gain is not None]
        seed_label = tuple(f"seed={seed}" for seed in key[-1])
        rows.append(_row([run for run, _ in groups[key]], gains, seed_label))
    return rows


def paired_gains(runs: Sequence[Run]) -> list[float | None]:
    """Of each run, ``last`` less that of the vanilla run of its seed; ``None`` without one."""
    return [
        None if other is None else run.summary["acc1"]["last"] - other.summary["acc1"]["last"]
        for run, other in zip(runs, _vanilla_of(runs), strict=True)
    ]


def vanilla_folders(summaries: Iterable[Summary]) -> dict[str, str]:
    """Of each finished run with a vanilla run of its seed, as gains pair them, both folders."""
    runs = tell_apart(summary for summary in summaries if summary["status"] == "finished")
    return {
        folder_of(run.summary): folder_of(other.summary)
        for run, other in zip(runs, _vanilla_of(runs), strict=True)
        if other is not None
    }


def _vanilla_of(runs: Sequence[Run]) -> list[Run | None]:
    """Of each run with compensation the vanilla one of the same seed and all else, if any."""
    vanilla = {(run.shared, run.summary["seed"]): run for run in runs if run.kind == VANILLA}
    return [
        None if run.kind == VANILLA else vanilla.get((run.shared, run.summary["seed"]))
        for run in runs
    ]


def order(run: Run) -> tuple[Any, ...]:
    """Where a run stands in tables, seeds apart."""
    summary = run.summary
    try:
        number = float(run.num_prototypes)
    except ValueError:
        number = float("inf")
    acc1, sha256 = summary["teacher"]["acc1"], summary["teacher"]["sha256"]
    kind = (run.kind != VANILLA, run.kind, number, run.num_prototypes)
    # Teachers that a title does not tell apart stand in one table, its baselines together.
    block = (*table_of(summary), float(f"{acc1:.2f}"), summary["baseline"], acc1, sha256)
    return (*block, run.others, *kind, run.options, run.shared, run.kdci)


def _row(runs: Sequence[Run], gains: Sequence[float], seed_label: tuple[str, ...]) -> Row:
    summaries = [run.summary for run in runs]
    first = summaries[0]
    last = [summary["acc1"]["last"] for summary in summaries]
    return Row(
        dataset=first["dataset"],
        budget=first["budget"],
        mode=first["substitution"]["mode"],
        teacher=first["teacher"]["name"],
        teacher_acc1=first["teacher"]["acc1"],
        student=first["student"]["name"],
        baseline=first["baseline"],
        kdci=runs[0].kind,
        num_prototypes=runs[0].num_prototypes,
        settings=(*runs[0].others, *runs[0].options, *seed_label),
        seeds=tuple(summary["seed"] for summary in summaries),
        last_mean=fmean(last),
        last_std=_std(last),
        best_mean=fmean(summary["acc1"]["best"] for summary in summaries),
        compensated_mean=_mean(summary["acc1"].get("compensated") for summary in summaries),
        stage_a_mean=_mean(summary["acc1"].get("stage_a") for summary in summaries),
        gain=gain_of(gains),
        unevenness=_mean(map(unevenness_of, summaries)),
        stage_a=cost_of("stage_a", summaries),
        dictionary=cost_of("dictionary", summaries),
        stage_b=cost_of("stage_b", summaries),
        inside=cost_of("inside", summaries),
        devices=tuple(sorted({summary["device"] for summary in summaries})),
        folders=tuple(map(folder_of, summaries)),
        copies=tuple(copy for run in runs for copy in run.copies),
    )


def unevenness_of(summary: Summary) -> float | None:
    """Divergence of the predicted classes from equal shares, nats; ``None`` if not recorded."""
    shares = summary.get("class_proportions")
    return divergence_from_uniform(shares) if shares else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _std(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
