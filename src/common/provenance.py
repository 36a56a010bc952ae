"""What made a result: the source that shapes it, and the libraries that compute it."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from src.common.files import content_hash

_SOURCE = Path(__file__).resolve().parent.parent
_PACKAGE = "src"
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Packages that compute numbers, and what they are called where they are installed. Others write
# files, parse options or draw tables.
_COMPUTING = {
    "torch": "torch",
    "torchvision": "torchvision",
    "torchmetrics": "torchmetrics",
    "lightning": "lightning",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "faiss": "faiss-cpu",
    "PIL": "pillow",
    "timm": "timm",
}


def source_hash(roots: Iterable[str], alone: Iterable[str] = ()) -> str:
    """SHA-256 over the source that stands behind some modules, so that changed code is noticed.

    That is the modules, all that they import within ``src``, at any depth and place, and the
    versions of the computing libraries among the rest. Comments, docstrings and layout do not
    count: they change no result.

    Args:
        roots: Dotted modules, e.g. ``"src.baseline.dafl"``; those outside ``src`` count as
            libraries.
        alone: Dotted modules that count without what they import.
    """
    code: dict[str, str] = {}
    libraries: set[str] = set()
    waiting = [(name, True) for name in roots] + [(name, False) for name in alone]
    while waiting:
        name, follows = waiting.pop()
        path = _path_of(name)
        if path is None:
            libraries.add(name.split(".")[0])
        elif name not in code:
            code[name], imports = _parsed(path.read_text(encoding="utf-8"))
            inner, outer = _sorted_out(imports)
            libraries |= outer
            waiting += [(module, True) for module in inner if follows]
    return content_hash([code, {name: _version(name) for name in sorted(libraries)}])


def source_files() -> list[Path]:
    """All Python files of this program."""
    return sorted(_SOURCE.rglob("*.py"))


def library_versions() -> dict[str, str | None]:
    """Versions of the libraries that compute numbers."""
    return {name: _version(name) for name in _COMPUTING}


def _path_of(module: str) -> Path | None:
    """File of a module of this program; None for any other."""
    first, *rest = module.split(".")
    if first != _PACKAGE:
        return None
    place = _SOURCE.joinpath(*rest)
    candidates = (place / "__init__.py", place.with_suffix(".py"))
    return next((path for path in candidates if path.is_file()), None)


def _version(library: str) -> str | None:
    if library not in _COMPUTING:
        return None
    try:
        return version(_COMPUTING[library])
    except PackageNotFoundError:
        return None


def _sorted_out(imports: Iterable[str]) -> tuple[set[str], set[str]]:
    """Modules of this program, with the packages around them, and names of libraries."""
    inner: set[str] = set()
    outer: set[str] = set()
    for name in imports:
        parts = name.split(".")
        if parts[0] != _PACKAGE:
            outer.add(parts[0])
            continue
        # `from package import name`: the name may be a module or something within the package.
        modules = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        inner |= {module for module in modules if _path_of(module) is not None}
    return inner, outer & _COMPUTING.keys()


@cache
def _parsed(text: str) -> tuple[str, tuple[str, ...]]:
    """Source without comments, docstrings and layout, and all names that it imports."""
    tree = ast.parse(text)
    imports = tuple(_imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree), imports


def _imports(tree: ast.Module) -> Iterator[str]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse  # the rest is never imported
        else:
            waiting += ast.iter_child_nodes(node)
