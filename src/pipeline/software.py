"""Which software a run was made with, for the record."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

from src.common.package import IS_CLONE, ROOT

_PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "hydra-core",
    "omegaconf",
    "faiss-cpu",
    "numpy",
    "scikit-learn",
    "safetensors",
    "wandb",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that shape a result."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision(folder: Path | None = None) -> str | None:
    """Commit of the source, with ``-dirty`` for uncommitted changes; ``None`` outside git.

    A package that is installed within somebody's repository is no part of that.
    """
    if folder is None and not IS_CLONE:
        return None
    # Without optional locks, parallel sweep points do not fight over the index.
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(
            ["git", "--no-optional-locks", *describe],
            cwd=folder or ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
