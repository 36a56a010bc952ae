"""Where this program lies, and under which name."""

from pathlib import Path

NAME = __name__.partition(".")[0]
"""``src`` in a clone, ``kdci`` where the wheel is installed."""

SOURCE = Path(__file__).resolve().parent.parent
"""The package."""

IS_CLONE = not (SOURCE / "conf").is_dir()

ROOT = SOURCE.parent if IS_CLONE else SOURCE
"""What holds ``conf`` and ``experiments``."""

CONF = ROOT / "conf"
