"""What made a result: the source of the packages that shape it."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_SOURCE = Path(__file__).resolve().parent.parent


def source_hash(packages: Iterable[str]) -> str:
    """SHA-256 over the Python files of ``src/<package>``, so that changed code makes a new key."""
    digest = hashlib.sha256()
    for package in sorted(packages):
        for path in sorted((_SOURCE / package).rglob("*.py")):
            digest.update(str(path.relative_to(_SOURCE)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
