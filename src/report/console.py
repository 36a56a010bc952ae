"""The terminal that tables are printed on."""

import sys

from rich.console import Console

_WIDTH_OF_FILES = 160  # columns


def console() -> Console:
    """Standard output; a pipe or a log file has no width of its own and gets a wide one."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)
