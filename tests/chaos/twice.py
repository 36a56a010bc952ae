"""Equal and different commands that run at the same time and share what they make."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random

from tests.chaos.lab import DIGITS, Lab
from tests.chaos.resumes import overrides_of
from tests.chaos.runner import Case
from tests.chaos.runs import command, copy_of, reference, result_of, summaries
from tests.chaos.verdict import Kind, Outcome, Verdict, crash_of, leftovers

SMALL = ("two equal",)
_MADE = ("Training the teacher", "Stage (a): making")


def cases() -> list[Case]:
    """Two, three, different ones, and ones beside a cache that is being read."""
    long = overrides_of("dafl")
    groups: list[tuple[str, list[tuple[str, ...]]]] = [
        ("two equal", [long, long]),
        ("three equal", [DIGITS, DIGITS, DIGITS]),
        ("two of one cache", [(*DIGITS, "kdci.N=4"), (*DIGITS, "kdci.N=8")]),
        ("three of one cache", [(*long, "kdci=none"), (*long, "kdci.N=8"), long]),
        ("two that share a teacher", [(*DIGITS, "baseline=dfnd"), (*DIGITS, "baseline=fast")]),
        ("online and replay", [overrides_of("cmi"), overrides_of("cmi", "online")]),
    ]
    found = [Case(title, partial(_together, group)) for title, group in groups]
    found += [Case(f"{title}, forced", partial(_forced, group)) for title, group in groups[:2]]
    found.append(Case("cache that is being read", partial(_warm, groups[3][1])))
    return found


def _start_all(
    lab: Lab, folder: Path, group: Sequence[Sequence[str]], rng: Random, *more: str
) -> list[Outcome]:
    running = [lab.start(folder, [*command(folder, overrides), *more]) for overrides in group]
    return [lab.wait(each) for each in running]


def _verdict(
    lab: Lab, folder: Path, group: Sequence[tuple[str, ...]], outcomes: Sequence[Outcome]
) -> Verdict:
    evidence = "\n".join(outcome.evidence() for outcome in outcomes)
    for outcome in outcomes:
        crash = crash_of(outcome)
        if crash is not None:
            return crash
        if outcome.exit_code != 0:
            return Verdict(Kind.OTHER, f"exit code {outcome.exit_code}", evidence)
    expected = {reference(lab, overrides).result for overrides in group}
    found = {result_of(path) for path in summaries(folder)}
    if found != expected:
        return Verdict(Kind.SILENT, f"expected {expected}, got {found}", evidence)
    left = leftovers(folder / "outputs", folder / "cache")
    return Verdict(Kind.OTHER, f"left over: {left[:5]}", evidence) if left else Verdict(Kind.RIGHT)


def _together(group: list[tuple[str, ...]], lab: Lab, folder: Path, rng: Random) -> Verdict:
    outcomes = _start_all(lab, folder, group, rng)
    verdict = _verdict(lab, folder, group, outcomes)
    if verdict.kind is not Kind.RIGHT:
        return verdict
    places = [line for outcome in outcomes for line in outcome.stderr.splitlines()]
    made = [line for line in places if line.startswith(_MADE)]
    if len(made) != len(set(made)):
        return Verdict(Kind.OTHER, "made more than once", "\n".join(places))
    return verdict


def _forced(group: list[tuple[str, ...]], lab: Lab, folder: Path, rng: Random) -> Verdict:
    outcomes = _start_all(lab, folder, group, rng, "force=true")
    return _verdict(lab, folder, group, outcomes)


def _warm(group: list[tuple[str, ...]], lab: Lab, folder: Path, rng: Random) -> Verdict:
    copy_of(reference(lab, group[-1]).folder, folder)
    outcomes = _start_all(lab, folder, group, rng, "force=true")
    return _verdict(lab, folder, group, outcomes)
