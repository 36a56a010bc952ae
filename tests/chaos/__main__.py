"""``python -m tests.chaos``: try to make a run use what is wrong; print what came of it."""

import argparse
import importlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.lab import Lab
from tests.chaos.runner import Row, run_part, share, table

PARTS = ("resumes", "damage", "hostile", "values", "disk", "twice", "signals", "ranks", "edits")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 if anything was silent, wrong, a traceback or a hang."""
    arguments = _parser().parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="kdci-chaos-"))
    lab = Lab(folder)
    try:
        rows = [_row(lab, part, arguments) for part in arguments.only or PARTS]
    finally:
        lab.close()
        shutil.rmtree(folder, ignore_errors=True)
    text = table(rows)
    _say(text)
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n", encoding="utf-8")
    failures = sum(len(row.failures) for row in rows)
    _say(f"{failures} failed" if failures else "nothing silent, no traceback, no hang")
    return 1 if failures else 0


def _row(lab: Lab, part: str, arguments: argparse.Namespace) -> Row:
    module = importlib.import_module(f"tests.chaos.{part}")
    reason = getattr(module, "why_not", lambda: None)()
    if reason is not None:
        _say(f"SKIPPED: {part}: {reason}")
        return Row(part, skipped=reason)
    cases = module.cases()
    numbers = range(len(cases)) if arguments.case is None else arguments.case
    if arguments.small:
        numbers = share(cases, module.SMALL)
    row = run_part(
        lab, part, cases, numbers, seed=arguments.seed, jobs=arguments.jobs, report=_say
    )
    _say(f"{part}: {len(row.shown)} tried, {len(row.failures)} failed, {row.seconds:.0f} s")
    return row


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; repeatable")
    parser.add_argument("--case", action="append", type=int, help="this case; repeatable")
    parser.add_argument("--seed", type=int, default=0, help="of all that is left to chance")
    parser.add_argument("--small", action="store_true", help="a fixed small share of every part")
    parser.add_argument("--jobs", type=int, default=2, help="cases at once")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # and tidy up
    sys.exit(main())
