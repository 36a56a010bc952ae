"""What made a result: the source that shapes it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_SOURCE = Path(__file__).resolve().parent.parent


def source_hash(parts: Iterable[str]) -> str:
    """SHA-256 over source files, so that changed code makes a new cache key.

    Args:
        parts: Packages or files below ``src``, e.g. ``"network"`` or ``"teacher/module.py"``.
    """
    digest = hashlib.sha256()
    for part in sorted(parts):
        place = _SOURCE / part
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(str(path.relative_to(_SOURCE)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
