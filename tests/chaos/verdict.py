"""How a case ended, and what that says."""

import re
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

_TOLD = re.compile("damaged|altered|missing|cannot be read|not used")
_LEFTOVER = re.compile(
    r"\.\d+-[0-9a-f]{8}-.*|\.tmp\w{6}|state|summary\.previous\.json|traceback\.txt"
)


class NotPossible(Exception):  # noqa: N818 - it tells that a case does not exist
    """What a case would do cannot be done; it does not count."""


class Kind(Enum):
    """Columns of the table."""

    RIGHT = "right result"
    REBUILT = "rebuilt with a line"
    REFUSED = "refused in one line"
    SILENT = "silent"
    TRACEBACK = "tracebacks"
    HANG = "hangs"
    OTHER = "other"

    @property
    def is_failure(self) -> bool:
        return self not in (Kind.RIGHT, Kind.REBUILT, Kind.REFUSED)


@dataclass(frozen=True)
class Verdict:
    """What a case has shown, why, and the output that shows it."""

    kind: Kind
    why: str = ""
    evidence: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a program ended; ``exit_code`` is negative after a signal, None for no end in time."""

    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float
    arguments: tuple[str, ...] = ()
    changes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def errors(self) -> list[str]:
        """Lines that complain."""
        return [
            line for line in self.stderr.splitlines() if re.match(r"(\[rank \d+\] )?Error: ", line)
        ]

    def evidence(self) -> str:
        """All that may help to understand it."""
        return (
            f"arguments: {' '.join(self.arguments)}\nexit code: {self.exit_code}\n"
            f"stderr: {self.stderr[-3000:]}\nstdout: {self.stdout[-300:]}"
        )


@dataclass(frozen=True)
class Result:
    """What a finished run says: equal for equal runs."""

    student: str
    accuracies: str


def crash_of(outcome: Outcome) -> Verdict | None:
    """What no outcome may be, whatever was done to it: a hang or a traceback."""
    if outcome.exit_code is None:
        return Verdict(Kind.HANG, "no end in time", outcome.evidence())
    text = outcome.stderr + outcome.stdout
    if "Traceback (most recent call last)" in text or "Error: Unexpected" in text:
        return Verdict(Kind.TRACEBACK, "", outcome.evidence())
    return None


def judge(
    outcome: Outcome,
    found: object,
    expected: object,
    *,
    named: str | None = None,
    may_refuse: bool = True,
    needs_line: bool = False,
) -> Verdict:
    """The verdict on a program that was disturbed.

    Args:
        outcome: How it ended.
        found: Its result.
        expected: That of the undisturbed program.
        named: Path that a line names which says what is rebuilt.
        may_refuse: One line and exit code 2 are right, too.
        needs_line: The right result without a line is a failure.
    """
    crash = crash_of(outcome)
    if crash is not None:
        return crash
    if outcome.exit_code == 0:
        if found != expected:
            return Verdict(Kind.SILENT, f"expected {expected}, got {found}", outcome.evidence())
        lines = outcome.stderr.splitlines()
        if named and any(named in line and _TOLD.search(line) for line in lines):
            return Verdict(Kind.REBUILT)
        if needs_line:
            return Verdict(Kind.OTHER, "rebuilt without a line", outcome.evidence())
        return Verdict(Kind.RIGHT)
    return judge_refusal(outcome, may_refuse=may_refuse)


def judge_refusal(
    outcome: Outcome, *, may_refuse: bool = True, codes: tuple[int, ...] = (2,)
) -> Verdict:
    """The verdict on a program that did not finish."""
    crash = crash_of(outcome)
    if crash is not None:
        return crash
    if outcome.exit_code not in codes:
        return Verdict(Kind.OTHER, f"exit code {outcome.exit_code}", outcome.evidence())
    if len(outcome.errors) != 1:
        return Verdict(Kind.OTHER, "expected one line", outcome.evidence())
    if not may_refuse:
        return Verdict(Kind.OTHER, "refused, but it should finish", outcome.evidence())
    return Verdict(Kind.REFUSED)


def leftovers(*roots: Path) -> list[str]:
    """Temporary files and states that nobody has removed."""
    found = []
    for root in roots:
        found += [str(path) for path in root.rglob("*") if _LEFTOVER.fullmatch(path.name)]
    return sorted(found)
