"""Entry point of everything: ``kdci``, in a clone ``python -m src``.

``kdci [group=option] [key=value] [--multirun]`` runs; ``kdci report``, ``kdci predict`` and
``kdci export`` are ``python -m src.report``, ``src.predict`` and ``src.export``.
"""

import sys
from importlib import import_module

_PARTS = {"report": "src.report.__main__", "predict": "src.predict", "export": "src.export"}


def main() -> int | None:
    """Do as the first word says, and return the exit code."""
    part = _PARTS.get(sys.argv[1]) if len(sys.argv) > 1 else None
    if part is None:
        from src.run import main as run

        run()
        return None
    del sys.argv[1]
    code: int | None = import_module(part).main()
    return code


if __name__ == "__main__":
    sys.exit(main())
