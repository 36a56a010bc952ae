"""Builds the wheel: the one source tree, under an import name that is nobody else's.

In a clone the package is called ``src``, as many a user's own is. The wheel holds the same files
as ``kdci``, with configurations and experiments within. All else is setuptools'.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401  (the other hooks of a build backend)
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

NAME = "kdci"
_MODULE = re.compile(r"(?<![\w./-])src(?=\.[a-z_])")
_RENAMED = (".py", ".yaml", ".toml")
_BESIDE = ("LICENSE", "NOTICE", "README.md", "pyproject.toml")


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build it; metadata that was prepared is not used, it would name modules of a clone."""
    target = os.path.abspath(wheel_directory)
    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path.cwd(), Path(folder))
        with chdir(folder):
            return build_meta.build_wheel(target, config_settings)


def write_tree(clone: Path, folder: Path) -> None:
    """Write what the wheel is built from."""
    for name in _BESIDE:
        shutil.copy(clone / name, folder)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(clone / "src", folder / NAME, ignore=ignore)
    for name in ("conf", "experiments"):
        shutil.copytree(clone / name, folder / NAME / name, ignore=ignore)
    for path in _texts(folder):
        path.write_text(renamed(path.read_text(encoding="utf-8")), encoding="utf-8")
    project = folder / "pyproject.toml"
    project.write_text(project.read_text(encoding="utf-8").replace('["src*"]', f'["{NAME}*"]'))


def renamed(text: str) -> str:
    """``text`` with every module ``src.x`` in code, options and messages as ``kdci.x``."""
    return _MODULE.sub(NAME, text.replace("from src import", f"from {NAME} import"))


def _texts(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.suffix in _RENAMED)
