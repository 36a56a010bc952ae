"""Which finished runs are the same but for their seed, and what tells the others apart."""

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from src.common.errors import UserError
from src.common.files import content_hash
from src.report.collection import Damaged, Found
from src.report.summary import FILE_NAME, Summary

VANILLA = "none"  # `kdci.name` of a run without compensation

_KDCI = "kdci."
_N, _OWN_N = "kdci.N", "kdci.dictionary.N"  # the latter is what counts; it follows unless set
_COLUMNS = {"kdci.name", _N, _OWN_N}  # options that need no label
# Code that a run with compensation shares with its vanilla run.
_SHARED_CODE = ("teacher", "stage_a", "stage_b")
_CONTENT_LABELS = {
    "dataset": "data",
    "teacher.checkpoint": "checkpoint",
    "teacher.class_map": "class map",
}
_SHOWN_DIGITS = 7  # of hashes; whole ones are compared


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        summary: The run.
        shared: Hash of all that it shares with its vanilla run: settings, data, code, teacher.
        kdci: Hash of the compensation, see :func:`kdci_hash`.
        copies: Other folders that hold it.
        others: ``key=value`` of what differs in its block and is shared with the vanilla run.
        options: The same of what differs among runs of this kind of compensation.
    """

    summary: Summary
    shared: str
    kdci: str
    copies: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Name of the compensation."""
        return str(self.summary["kdci"]["name"])

    @property
    def num_prototypes(self) -> str:
        """N of the dictionary, empty for the vanilla baseline."""
        settings = self.summary["identity"]["settings"]
        return str(settings.get(_OWN_N) or settings.get(_N) or "")


def table_of(summary: Summary) -> tuple[str, ...]:
    """What runs of one table have in common: data set, budget, mode, teacher and student."""
    teacher, student = summary["teacher"], summary["student"]
    mode = summary["substitution"]["mode"]
    return (summary["dataset"], summary["budget"], mode, teacher["name"], student["name"])


def folder_of(summary: Summary) -> str:
    """Where a summary lay."""
    return summary.get("folder", "?")


def shared_hash(summary: Summary, drawn: Collection[str] = ()) -> str:
    """Of what a run shares with its vanilla run: settings, data and code; not the weights.

    Args:
        summary: A finished run.
        drawn: Settings that do not count, as ``seed`` never does.
    """
    names = [*table_of(summary), summary["baseline"]]
    settings = {key: v for key, v in _shared_settings(summary).items() if key not in drawn}
    return content_hash([names, settings, summary["identity"]["contents"], _shared_code(summary)])


def kdci_hash(summary: Summary, changed: Mapping[str, Any] | None = None) -> str:
    """Of the compensation, or of the same with ``changed`` options."""
    if summary["kdci"]["name"] == VANILLA:  # of which no option is read
        return VANILLA
    code = summary["identity"]["code"].get("kdci")
    return content_hash([kdci_settings(summary) | dict(changed or {}), code])


def kdci_settings(summary: Summary) -> dict[str, Any]:
    """Options of the compensation by dotted name; no ``kdci.N`` that the dictionary overrides."""
    settings = summary["identity"]["settings"]
    unread = {_N} if settings.get(_OWN_N) else set()
    return {
        key: settings[key]
        for key in sorted(settings)
        if key.startswith(_KDCI) and key not in unread
    }


def without_contradictions(found: Found) -> Found:
    """Runs that are the same in everything but their results stand among the damaged.

    Which of them is right is not known: all are left out.
    """
    groups: defaultdict[tuple[str, str, int], list[Summary]] = defaultdict(list)
    for summary in found.summaries:
        if summary["status"] == "finished":
            groups[_key(_run(summary))].append(summary)
    damaged = {}
    for group in groups.values():
        for summary in group:
            other = next((each for each in group if each["acc1"] != summary["acc1"]), None)
            if other is not None:
                damaged[id(summary)] = _contradiction(summary, other)
    kept = [summary for summary in found.summaries if id(summary) not in damaged]
    return Found(kept, sorted([*found.damaged, *damaged.values()]))


def _contradiction(summary: Summary, other: Summary) -> Damaged:
    folder = folder_of(summary)
    reason = (
        f"'{folder}' and '{folder_of(other)}' hold different results of seed {summary['seed']}, "
        "the same settings, data and code"
    )
    return Damaged(Path(folder, FILE_NAME), reason)


def tell_apart(summaries: Iterable[Summary]) -> list[Run]:
    """Every finished run once, with labels of what differs.

    Raises:
        UserError: If two runs are the same in everything, seed included, but their results.
    """
    tables: defaultdict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in _distinct(summaries):
        tables[table_of(run.summary)].append(run)
    labelled = []
    for table in tables.values():
        # Rows of several baselines stand in one table: all should have read the same data.
        contents = _differing([_contents(run.summary) for run in table], absent=False)
        teachers = _teachers(table, contents)
        blocks: defaultdict[str, list[Run]] = defaultdict(list)
        for run in table:
            blocks[run.summary["baseline"]].append(run)
        for block in blocks.values():
            labelled += _labelled(block, contents, teachers)
    return labelled


def _distinct(summaries: Iterable[Summary]) -> list[Run]:
    runs: dict[tuple[str, str, int], Run] = {}
    for summary in summaries:
        run = _run(summary)
        first = runs.setdefault(_key(run), run)
        if first is not run:
            _require_equal(first.summary, summary)
            copies = (*first.copies, folder_of(summary))
            runs[_key(run)] = replace(first, copies=copies)
    return list(runs.values())


def _run(summary: Summary) -> Run:
    shared = content_hash([shared_hash(summary), summary["teacher"]["sha256"]])
    return Run(summary, shared, kdci_hash(summary))


def _key(run: Run) -> tuple[str, str, int]:
    """The same for copies of one run only."""
    return run.shared, run.kdci, run.summary["seed"]


def _require_equal(first: Summary, second: Summary) -> None:
    if first["acc1"] != second["acc1"]:
        raise UserError(
            f"Expected one result per setting and seed, but {folder_of(first)} and "
            f"{folder_of(second)} both hold seed {first['seed']} of the same settings, data and "
            "code, with different results; leave one of them out"
        )


def _teachers(table: Sequence[Run], contents: set[str]) -> set[str]:
    """Hashes of teachers that only their hash tells from another of the same title and data."""
    alike: defaultdict[tuple[Any, ...], set[str]] = defaultdict(set)
    for run in table:
        teacher = run.summary["teacher"]
        # As precisely as titles show it.
        key = (f"{teacher['acc1']:.2f}", _label(_contents(run.summary), contents))
        alike[key].add(teacher["sha256"])
    return {sha256 for hashes in alike.values() if len(hashes) > 1 for sha256 in hashes}


def _labelled(block: Sequence[Run], contents: set[str], teachers: set[str]) -> list[Run]:
    others = [_others(run.summary) for run in block]
    shown = contents | _differing(others)
    labels = [_label(values, shown) for values in others]
    # Two kinds of compensation differ by name already; only runs of one kind are compared.
    kinds: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in block:
        kinds[run.kind].append(_options(run.summary))
    options = {kind: _differing(of_kind) for kind, of_kind in kinds.items()}
    return [
        replace(
            run,
            others=(*label, *_teacher_label(run.summary, teachers)),
            options=_label(_options(run.summary), options[run.kind]),
        )
        for label, run in zip(labels, block, strict=True)
    ]


def _teacher_label(summary: Summary, named: set[str]) -> tuple[str, ...]:
    sha256 = summary["teacher"]["sha256"]
    return (f"teacher={sha256[:_SHOWN_DIGITS]}",) if sha256 in named else ()


def _others(summary: Summary) -> dict[str, Any]:
    """What may tell a run apart and is shared with its vanilla run, hashes cut to be shown."""
    code = content_hash(_shared_code(summary))[:_SHOWN_DIGITS]
    return {**_contents(summary), "code": code, **_shared_settings(summary)}


def _contents(summary: Summary) -> dict[str, str]:
    contents = sorted(summary["identity"]["contents"].items())
    return {_CONTENT_LABELS.get(name, name): value[:_SHOWN_DIGITS] for name, value in contents}


def _shared_code(summary: Summary) -> list[str | None]:
    return [summary["identity"]["code"].get(part) for part in _SHARED_CODE]


def _shared_settings(summary: Summary) -> dict[str, Any]:
    settings = sorted(summary["identity"]["settings"].items())
    return {key: v for key, v in settings if key != "seed" and not key.startswith(_KDCI)}


def _options(summary: Summary) -> dict[str, Any]:
    if summary["kdci"]["name"] == VANILLA:
        return {}
    settings = kdci_settings(summary).items()
    options = {key.removeprefix(_KDCI): v for key, v in settings if key not in _COLUMNS}
    code = summary["identity"]["code"].get("kdci", "")[:_SHOWN_DIGITS]
    return options | ({"kdci_code": code} if code else {})


def _differing(settings: Sequence[Mapping[str, Any]], absent: bool = True) -> set[str]:
    """Keys of more than one value; that a key is missing counts as one where ``absent``."""
    values: defaultdict[str, list[str]] = defaultdict(list)
    for setting in settings:
        for key, value in setting.items():
            values[key].append(json.dumps(value, sort_keys=True))
    return {
        key
        for key, found in values.items()
        if len(set(found)) > 1 or (absent and len(found) < len(settings))
    }


def _label(setting: Mapping[str, Any], keys: set[str]) -> tuple[str, ...]:
    return tuple(f"{key}={_text(value)}" for key, value in setting.items() if key in keys)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
