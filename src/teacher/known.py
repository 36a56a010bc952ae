"""Checkpoints that others have published: what they are and what they should reach."""

import tomllib
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from src.common.files import sha256_file

_LIST = Path(__file__).with_name("checkpoints.toml")


class KnownCheckpoint(BaseModel):
    """An entry of ``checkpoints.toml``.

    Attributes:
        network: Option of ``teacher=...``.
        dataset: Option of ``dataset=...``.
        acc1: Published top-1 accuracy on the test split, percent.
        source: Where it is to be had.
        sha256: First digits, eight at least, of the file's SHA-256; None if not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    network: str
    dataset: str
    acc1: float = Field(gt=0, le=100)
    source: str
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{8,64}$")


@cache
def known_checkpoints() -> tuple[KnownCheckpoint, ...]:
    """All entries, in the order of the file."""
    entries = tomllib.loads(_LIST.read_text())["checkpoint"]
    return tuple(KnownCheckpoint.model_validate(entry) for entry in entries)


def recognise(path: Path) -> KnownCheckpoint | None:
    """The entry whose SHA-256 a file has; None if there is no such entry, or no such file."""
    digest = sha256_file(path) if path.is_file() else ""
    for known in known_checkpoints():
        if known.sha256 and digest.startswith(known.sha256):
            return known
    return None


def published(network: str, dataset: str) -> list[KnownCheckpoint]:
    """The entries of a network on a data set."""
    return [k for k in known_checkpoints() if (k.network, k.dataset) == (network, dataset)]
