"""Entry point of everything: ``kdci``, in a clone ``python -m src``.

``kdci [group=option] [key=value] [--multirun]`` runs; ``kdci report``, ``kdci predict`` and
``kdci export`` are ``python -m src.report``, ``src.predict`` and ``src.export``.
"""

import sys
from importlib import import_module

from src.common.errors import MissingExtraError

_PARTS = {"report": "src.report.__main__", "predict": "src.predict", "export": "src.export"}


def main() -> int | None:
    """Do as the first word says, and return the exit code."""
    try:
        return _do(_PARTS.get(sys.argv[1]) if len(sys.argv) > 1 else None)
    except ModuleNotFoundError as error:  # installed for deployment only
        sys.stderr.write(f"Error: {MissingExtraError(str(error.name), 'train')}\n")
        return 2


def _do(part: str | None) -> int | None:
    if part is None:
        import_module("src.run").main()
        return None
    del sys.argv[1]
    code: int | None = import_module(part).main()
    return code


if __name__ == "__main__":
    sys.exit(main())
