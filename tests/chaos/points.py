"""``python -m tests.chaos.points SWEEP``: the table of a sweep from the records of its points."""

import sys
from pathlib import Path

from src.report.sweep import report_sweep


def main() -> int:
    folder = Path(sys.argv[1])
    return 1 if report_sweep(folder, sorted(folder.glob("*/point.json"))) else 0


if __name__ == "__main__":
    sys.exit(main())
