"""Topics of what ran, and of what did not come to its end."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from src.report.anonymous import run_name
from src.report.block import EMPTY, Part, number, part_of
from src.report.collection import Damaged
from src.report.page.model import Topic
from src.report.summary import Summary
from src.report.table import first_line, left_out

_DIGITS = 10  # of hashes that are shown


def provenance(
    finished: Sequence[Summary],
    unfinished: Sequence[Summary],
    damaged: Sequence[Damaged],
    is_anonymous: bool = False,
) -> list[Topic]:
    """Runs, where and with what they ran, failures, and summaries left out; may be empty.

    Args:
        finished: Runs that are.
        unfinished: The others.
        damaged: Summaries that cannot be used.
        is_anonymous: Whether runs are to be called by the names of their folders.
    """
    if is_anonymous:
        finished, unfinished = _by_name(finished), _by_name(unfinished)
    topics = [
        Topic("Runs", [_runs(finished)] if finished else []),
        Topic("Machines, versions and data", [_environment(finished)] if finished else []),
        Topic("Not finished", [_unfinished(unfinished)] if unfinished else []),
    ]
    lines = [(str(each.path), each.reason) for each in damaged]
    part = Part("Summaries that cannot be used", ("file", "reason"), lines, 2)
    left = Topic("Left out", [part] if damaged else [])
    left.notes = [f"{left_out(damaged)}."]
    return [*topics, left]


def _by_name(summaries: Sequence[Summary]) -> list[Summary]:
    return [each | {"folder": run_name(each.get("folder", EMPTY))} for each in summaries]


def command_of(summary: Summary) -> str:
    """The command line that asked for a run, or else the words that name it."""
    return summary.get("command") or _words(summary)


def _words(summary: Summary) -> str:
    kdci = summary["kdci"]
    words = {
        "dataset": summary["dataset"],
        "baseline": summary["baseline"],
        "teacher": summary["teacher"]["name"],
        "student": summary["student"]["name"],
        "budget": summary["budget"],
        "kdci": kdci["name"],
        **({"kdci.N": kdci["N"]} if kdci.get("N") is not None else {}),
        "substitution.mode": summary["config"].get("substitution", {}).get("mode"),
        "seed": summary["seed"],
    }
    known = (f"{key}={value}" for key, value in words.items() if value is not None)
    return " ".join(["python -m src.run", *known])


def _runs(summaries: Sequence[Summary]) -> Part:
    header = ("command", "folder", "started (UTC)", "code revision", "last", "seconds")
    lines = [
        (
            command_of(run),
            run.get("folder", EMPTY),
            _started(run),
            _short(run.get("git_revision")),
            number(run["acc1"]["last"]),
            number(run["seconds"]["total"], 1),
        )
        for run in summaries
    ]
    return part_of("Finished runs", header, lines, 4)


def _environment(summaries: Sequence[Summary]) -> Part:
    """Each value that runs have, and how many have it."""
    counts: Counter[tuple[str, str]] = Counter()
    for run in summaries:
        counts.update(pair for pair in _facts(run) if pair[1])
    kinds = list(dict.fromkeys(kind for kind, _ in counts))
    lines = [
        (kind, value, str(counts[kind, value]))
        for kind in kinds
        for value in sorted(value for other, value in counts if other == kind)
    ]
    return part_of("What the finished runs have in common", ("what", "value", "runs"), lines, 2)


def _facts(run: Summary) -> list[tuple[str, str]]:
    contents: dict[str, Any] = run["identity"]["contents"]
    return [
        ("host", run.get("host") or ""),
        ("device", run["device"]),
        ("processes", str(run.get("world_size", ""))),
        ("precision", run.get("precision", "")),
        ("data set", run["dataset"]),
        *((f"content of {name}", _short(value)) for name, value in sorted(contents.items())),
        ("budget", run["budget"]),
        ("recipe", run.get("recipe") or ""),
        ("protocol", run.get("protocol", "")),
        ("code revision", run.get("git_revision") or ""),
        *((name, version) for name, version in (run.get("versions") or {}).items()),
    ]


def _unfinished(summaries: Sequence[Summary]) -> Part:
    header = ("run", "folder", "status", "started (UTC)", "reason")
    lines = [
        (
            command_of(run),
            run.get("folder", EMPTY),
            run["status"],
            _started(run),
            EMPTY if run["status"] == "running" else first_line(run.get("error")),
        )
        for run in summaries
    ]
    return part_of("Failed, interrupted and running runs", header, lines, 5)


def _started(run: Summary) -> str:
    return str(run.get("started") or EMPTY)[:16].replace("T", " ")


def _short(value: Any) -> str:
    """A hash cut short; that files were changed stays said."""
    text = str(value or EMPTY)
    dirty = "-dirty" if text.endswith("-dirty") else ""
    return text.removesuffix("-dirty")[:_DIGITS] + dirty
