"""Where this program lies, and under which name."""

from pathlib import Path

NAME = __name__.partition(".")[0]
"""``src`` in a clone, ``kdci`` where the wheel is installed."""

SOURCE = Path(__file__).resolve().parent.parent
"""The package."""

_OPTIONS = SOURCE / "options"  # apart from modules, which TAB would offer as options

IS_CLONE = not _OPTIONS.is_dir()

ROOT = SOURCE.parent if IS_CLONE else _OPTIONS
"""What holds ``conf`` and ``experiments``."""

CONF = ROOT / "conf"
