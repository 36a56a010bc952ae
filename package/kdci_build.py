"""Builds the wheel: the one source tree, under an import name that is nobody else's.

In a clone the package is called ``src``, as many a user's own is. The wheel holds the same files
as ``kdci``, with configurations and experiments within. All else is setuptools'.
"""

import os
import tempfile
from contextlib import chdir
from pathlib import Path
from typing import Any

from kdci_tree import write_tree
from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  (the other hooks of a build backend)
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build it; metadata that was prepared is not used, it would name modules of a clone."""
    target = os.path.abspath(wheel_directory)
    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path.cwd(), Path(folder))
        with chdir(folder):
            return build_meta.build_wheel(target, config_settings)
