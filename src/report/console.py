"""The terminal that tables are printed on."""

import io
import sys

from rich.console import Console

_WIDTH_OF_FILES = 160  # columns


def print_whatever_can_be() -> None:
    """Let stdout show ``?`` for what its character set lacks: ± where it is ASCII, say."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def console() -> Console:
    """Standard output; a pipe or a log file has no width of its own and gets a wide one."""
    print_whatever_can_be()
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES)
