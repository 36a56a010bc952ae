"""What the wheel is built from: the one source tree, under a name that is nobody else's."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

NAME = "kdci"
_MODULE = re.compile(r"(?<![\w./-])src(?=\.[a-z_])")
_RENAMED = (".py", ".yaml", ".toml")
_BESIDE = ("LICENSE", "NOTICE", "README.md", "pyproject.toml")


def write_tree(clone: Path, folder: Path) -> None:
    """Write what the wheel is built from."""
    for name in _BESIDE:
        shutil.copy(clone / name, folder)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(clone / "src", folder / NAME, ignore=ignore)
    for name in ("conf", "experiments"):
        shutil.copytree(clone / name, folder / NAME / "options" / name, ignore=ignore)
    for path in _texts(folder):
        path.write_text(renamed(path.read_text(encoding="utf-8")), encoding="utf-8")
    project = folder / "pyproject.toml"
    project.write_text(project.read_text(encoding="utf-8").replace('["src*"]', f'["{NAME}*"]'))


def renamed(text: str) -> str:
    """``text`` with every module ``src.x`` in code, options and messages as ``kdci.x``."""
    return _MODULE.sub(NAME, text.replace("from src import", f"from {NAME} import"))


def _texts(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.suffix in _RENAMED)
