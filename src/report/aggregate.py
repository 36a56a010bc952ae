"""From the summaries of many runs to one row per setting, averaged over seeds."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from src.common.errors import UserError
from src.report.summary import Summary

VANILLA = "none"  # `kdci.name` of a run without compensation

# Groups that do not shape a result; KDCI options are told apart on their own.
_IGNORED_GROUPS = frozenset({"kdci", "logger", "report", "paths", "launcher", "hydra", "force"})
# Neither do these keys: where files lie, what is shown, and the seed that is averaged over.
_IGNORED_KEYS = frozenset({"seed", "root", "cache_dir", "progress", "log_every"})


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
        settings: Whatever else tells this row from its neighbours, as ``key=value``.
        seeds: The seeds averaged over.
        last_mean: Mean accuracy of the plain student after the last epoch.
        last_std: Sample standard deviation of the same; ``None`` for one seed.
        best_mean: Mean of the best accuracy of each run.
        compensated_mean: Mean accuracy with the compensation left on at test time.
        stage_a_mean: Mean accuracy of the student trained alongside stage (a).
        gain_mean: Mean over seeds of ``last`` minus that of the vanilla run of the same seed.
        gain_std: Sample standard deviation of the same; ``None`` for fewer than two pairs.
        gain_pairs: Number of seeds for which the vanilla run exists.
        seconds: Mean wall-clock time of a whole run.
        peak_memory_mb: Mean peak memory, MiB.
        reused: Number of runs whose stage (a) was reused, so that ``seconds`` leaves it out.
        devices: What the runs were measured on.
        folders: The run folders.
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
    gain_mean: float | None
    gain_std: float | None
    gain_pairs: int
    seconds: float
    peak_memory_mb: float
    reused: int
    devices: tuple[str, ...]
    folders: tuple[str, ...]


@dataclass(frozen=True)
class _Run:
    """A finished run beside what tells it from the other runs of its block."""

    summary: Summary
    kdci: str
    num_prototypes: str
    options: tuple[str, ...]  # differing KDCI options
    others: tuple[str, ...]  # differing settings outside KDCI, shared with its vanilla run


def aggregate(summaries: Iterable[Summary], by_seed: bool = False) -> list[Row]:
    """Group finished runs by everything but their seed, vanilla first in each block.

    A block is one data set, budget, mode, teacher, student and baseline. Within it, runs whose
    resolved configurations differ in any value that can shape a result stay apart, and the
    differing values become the row's ``settings``. Unfinished runs are left out.

    Args:
        summaries: Runs, in any order.
        by_seed: Keep seeds apart: one row per run, its gain against its own vanilla run.

    Raises:
        UserError: If two runs have the same settings and the same seed.
    """
    blocks: defaultdict[tuple[str, ...], list[Summary]] = defaultdict(list)
    for summary in summaries:
        if summary["status"] == "finished":
            blocks[_block(summary)].append(summary)
    return [row for key in sorted(blocks) for row in _block_rows(blocks[key], by_seed)]


def _block(summary: Summary) -> tuple[str, ...]:
    # The hash keeps two trainings of one teacher architecture apart.
    teacher, student = summary["teacher"], summary["student"]
    mode = summary["substitution"]["mode"]
    names = (summary["dataset"], summary["budget"], mode, teacher["name"], student["name"])
    return (*names, teacher.get("sha256") or "", summary["baseline"])


def _block_rows(summaries: Sequence[Summary], by_seed: bool) -> list[Row]:
    runs = _told_apart(summaries)
    vanilla = {
        (run.others, run.summary["seed"]): run.summary["acc1"]["last"]
        for run in runs
        if run.kdci == VANILLA
    }
    groups: defaultdict[tuple[Any, ...], list[_Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: run.summary["seed"]):
        seed = (run.summary["seed"],) if by_seed else ()
        groups[(*_order(run), seed)].append(run)
    rows = []
    for key in sorted(groups):
        _require_distinct_seeds(groups[key])
        gains = [
            run.summary["acc1"]["last"] - vanilla[pair]
            for run in groups[key]
            if run.kdci != VANILLA and (pair := (run.others, run.summary["seed"])) in vanilla
        ]
        seed_label = tuple(f"seed={seed}" for seed in key[-1])
        rows.append(_row(groups[key], gains, seed_label))
    return rows


def _told_apart(summaries: Sequence[Summary]) -> list[_Run]:
    others = [_flat(summary["config"], _IGNORED_GROUPS) for summary in summaries]
    options = [_flat(summary["kdci"], frozenset({"name", "N"})) for summary in summaries]
    names = [summary["kdci"]["name"] for summary in summaries]
    differing = _differing(others)
    # Two kinds of compensation differ by name already; only runs of one kind are compared.
    by_name = {
        name: _differing([o for o, other in zip(options, names, strict=True) if other == name])
        for name in set(names)
    }
    by_name[VANILLA] = []
    return [
        _Run(
            summary=summary,
            kdci=name,
            num_prototypes="" if name == VANILLA else str(summary["kdci"].get("N") or ""),
            options=_label(option, by_name[name]),
            others=_label(other, differing),
        )
        for summary, name, option, other in zip(summaries, names, options, others, strict=True)
    ]


def _flat(node: dict[str, Any], ignored: frozenset[str], prefix: str = "") -> dict[str, str]:
    """Dotted keys to text, without ``ignored`` keys of the top level and what never matters."""
    flat: dict[str, str] = {}
    for key, value in node.items():
        if key in ignored or key in _IGNORED_KEYS:
            continue
        if isinstance(value, dict):
            flat |= _flat(value, frozenset(), f"{prefix}{key}.")
        else:
            flat[prefix + key] = value if isinstance(value, str) else json.dumps(value)
    return flat


def _differing(settings: Sequence[dict[str, str]]) -> list[str]:
    keys = sorted(set().union(*settings))
    return [key for key in keys if len({setting.get(key) for setting in settings}) > 1]


def _label(setting: dict[str, str], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{key}={setting[key]}" for key in keys if key in setting)


def _order(run: _Run) -> tuple[Any, ...]:
    try:
        number = float(run.num_prototypes)
    except ValueError:
        number = float("inf")
    kind = (run.kdci != VANILLA, run.kdci, number, run.num_prototypes)
    return (run.others, *kind, run.options)


def _require_distinct_seeds(runs: Sequence[_Run]) -> None:
    first: dict[int, str] = {}
    for run in runs:
        seed, folder = run.summary["seed"], run.summary.get("folder", "?")
        if seed in first:
            raise UserError(
                f"Expected one run per setting and seed, but {first[seed]} and {folder} both hold "
                f"seed {seed} of the same settings; leave one of them out"
            )
        first[seed] = folder


def _row(runs: Sequence[_Run], gains: Sequence[float], seed_label: tuple[str, ...]) -> Row:
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
        kdci=runs[0].kdci,
        num_prototypes=runs[0].num_prototypes,
        settings=(*runs[0].others, *runs[0].options, *seed_label),
        seeds=tuple(summary["seed"] for summary in summaries),
        last_mean=fmean(last),
        last_std=_std(last),
        best_mean=fmean(summary["acc1"]["best"] for summary in summaries),
        compensated_mean=_mean(summary["acc1"].get("compensated") for summary in summaries),
        stage_a_mean=_mean(summary["acc1"].get("stage_a") for summary in summaries),
        gain_mean=_mean(gains),
        gain_std=_std(gains),
        gain_pairs=len(gains),
        seconds=fmean(summary["seconds"]["total"] or 0.0 for summary in summaries),
        peak_memory_mb=fmean(summary["peak_memory_mb"] for summary in summaries),
        reused=sum(summary["substitution"]["reused"] for summary in summaries),
        devices=tuple(sorted({summary.get("device", "?") for summary in summaries})),
        folders=tuple(summary.get("folder", "?") for summary in summaries),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _std(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
