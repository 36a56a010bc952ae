"""Files that notice their own damage: JSON with a seal, and digests of what lies beside it.

Neither torch, safetensors nor NumPy notices a flipped bit. What this program writes for later use
is a sealed JSON card beside data files whose digests the card holds; the card is written last.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from src.common.files import atomic_write, content_hash

_SEAL = "seal"
_CHUNK_BYTES = 2**22


class DamagedError(ValueError):
    """A file is not what was written; the message names it and says in what way."""


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with a hash of all the rest under ``seal``.

    Raises:
        ValueError: If a number is NaN or infinite, which no result of ours may be.
    """
    plain = json.loads(json.dumps(value, allow_nan=False))
    with atomic_write(path) as temporary:
        text = json.dumps({**plain, _SEAL: content_hash(plain)}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_sealed(path: Path) -> dict[str, Any]:
    """What :func:`write_sealed` wrote, without its seal.

    Raises:
        DamagedError: If the file is missing, no such file, or altered.
    """
    if not path.is_file():  # neither a folder nor something that never ends
        raise DamagedError(f"'{path}' is missing")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"'{path}' cannot be read ({error})") from error
    seal = content.pop(_SEAL, None) if isinstance(content, dict) else None
    if seal is None:
        raise DamagedError(f"'{path}' has no seal: it is of another program or version")
    if seal != content_hash(content):
        raise DamagedError(f"'{path}' has been altered: its seal is broken")
    plain: dict[str, Any] = content
    return plain


def read_own(path: Path, of: str) -> dict[str, Any]:
    """A sealed card that says under ``of`` whose it is; whole folders can be swapped, too.

    Raises:
        DamagedError: If it is not as it was written, or somebody else's.
    """
    card = read_sealed(path)
    if card.get("of") != of:
        raise DamagedError(f"'{path}' is not of '{of}' but of '{card.get('of')}'")
    return card


def digest_file(path: Path, size: int | None = None) -> str:
    """XXH3 (128 bits) of a file's bytes, hexadecimal: against damage, not against malice.

    Args:
        path: The file.
        size: Bytes that count, from the first on; None for all.
    """
    digest = xxhash.xxh3_128()
    left = size
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES)):
            digest.update(chunk)
            left = None if left is None else left - len(chunk)
    return digest.hexdigest()


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Digest of every file of ``folder`` that is named."""
    return {name: digest_file(folder / name) for name in names}


def verify(folder: Path, expected: Mapping[str, str], size: int | None = None) -> None:
    """Compare files with the digests of their card.

    Args:
        folder: Where the files lie.
        expected: Digests by file name.
        size: Bytes of each that count; None for all.

    Raises:
        DamagedError: For the first file that is missing or altered.
    """
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"'{path}' is missing")
        try:
            found = digest_file(path, size)
        except OSError as error:
            raise DamagedError(f"'{path}' cannot be read ({error.strerror})") from error
        if found != digest:
            raise DamagedError(f"'{path}' has been altered: its checksum differs")
