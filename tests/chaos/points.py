"""``python -m tests.chaos.points SWEEP``: the table of a sweep from the records of its points."""

import sys
from pathlib import Path

from src.report.sweep import report_sweep


def main() -> int:
    folder = Path(sys.argv[1])
    # As a sweep does it: of every point, whether it has left a record or not.
    records = sorted(path / "point.json" for path in folder.iterdir() if path.is_dir())
    return 1 if report_sweep(folder, records) else 0


if __name__ == "__main__":
    sys.exit(main())
