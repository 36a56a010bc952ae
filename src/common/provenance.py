"""What made a result: the source that shapes it, and the libraries that compute it."""

import ast
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import resolve_name
from itertools import accumulate
from pathlib import Path

from src.common.errors import UserError
from src.common.files import content_hash
from src.common.package import NAME, SOURCE
from src.common.plugins import folders_of

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


def source_hash(
    roots: Iterable[str], alone: Iterable[str] = (), plugins: Collection[str] = ()
) -> str:
    """SHA-256 over the source that stands behind some modules, so that changed code is noticed.

    That is the modules, all that they import within ``src`` and the plug-ins, at any depth and
    place, and the versions of the computing libraries among the rest. Comments, docstrings,
    layout and Python's minor version do not count: they change no result.

    Args:
        roots: Dotted modules, e.g. ``"src.baseline.dafl"``; those outside ``src`` and the
            plug-ins count as libraries.
        alone: Dotted modules that count without what they import.
        plugins: Packages of other people whose source counts like ours.

    Raises:
        UserError: If a root within a plug-in has no source.
    """
    code: dict[str, str] = {}
    libraries: set[str] = set()
    roots = [each for name in roots for each in _with_packages(name, plugins)]
    waiting = [(name, True) for name in roots] + [(name, False) for name in alone]
    while waiting:
        name, follows = waiting.pop()
        path = _path_of(name, plugins)
        if path is None:
            libraries.add(name.split(".")[0])
        elif name not in code:
            code[name], imports = _parsed(path.read_text(encoding="utf-8"))
            package = name if path.stem == "__init__" else name.rpartition(".")[0]
            inner, outer = _sorted_out(_absolute(imports, package), plugins)
            libraries |= outer
            waiting += [(module, True) for module in inner if follows]
    return content_hash([code, {name: _version(name) for name in sorted(libraries)}])


def source_files(plugins: Iterable[str] = ()) -> list[Path]:
    """All Python files of this program, and of the plug-ins."""
    folders = [SOURCE, *(folder for name in plugins for folder in folders_of(name))]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def library_versions() -> dict[str, str | None]:
    """Versions of the libraries that compute numbers."""
    return {name: _version(name) for name in _COMPUTING}


def _path_of(module: str, plugins: Collection[str]) -> Path | None:
    """File of a module of this program or of a plug-in; None for any other."""
    first, *rest = module.split(".")
    folders = [SOURCE] if first == NAME else folders_of(first) if first in plugins else []
    places = [folder.joinpath(*rest) for folder in folders]
    candidates = (
        path for place in places for path in (place / "__init__.py", place.with_suffix(".py"))
    )
    return next((path for path in candidates if path.is_file()), None)


def _with_packages(module: str, plugins: Collection[str]) -> list[str]:
    """A module of a plug-in with the packages around it, whose code may do anything."""
    first = module.split(".")[0]
    if first not in plugins:
        return [module]
    if _path_of(module, plugins) is None:
        raise UserError(
            f"Cannot find the source of '{module}' in the plug-in '{first}': expected a Python "
            "file, since results are told apart by the code that has made them"
        )
    return [name for name in _prefixes(module) if _path_of(name, plugins) is not None]


def _prefixes(name: str) -> Iterable[str]:
    """``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``."""
    return accumulate(name.split("."), "{}.{}".format)


def _version(library: str) -> str | None:
    if library not in _COMPUTING:
        return None
    try:
        return version(_COMPUTING[library])
    except PackageNotFoundError:
        return None


def _sorted_out(imports: Iterable[str], plugins: Collection[str]) -> tuple[set[str], set[str]]:
    """Modules of this program and the plug-ins, with their packages, and names of libraries."""
    inner: set[str] = set()
    outer: set[str] = set()
    for name in imports:
        first = name.split(".")[0]
        if first != NAME and first not in plugins:
            outer.add(first)
            continue
        # `from package import name`: the name may be a module or something within the package.
        inner |= {module for module in _prefixes(name) if _path_of(module, plugins) is not None}
    return inner, outer & _COMPUTING.keys()


def _absolute(imports: Iterable[str], package: str) -> Iterator[str]:
    """Imported names as seen from outside their package; ``.a`` there is ``package.a``."""
    for name in imports:
        with suppress(ImportError):  # beyond the package: Python cannot import it either
            yield resolve_name(name, package)


@cache
def _parsed(text: str) -> tuple[str, tuple[str, ...]]:
    """Source without comments, docstrings and layout, and all names that it imports.

    Relative ones begin with their dots.
    """
    tree = ast.parse(text)
    imports = tuple(_imports(tree))
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
        if not getattr(node, "type_params", True):  # which Python 3.11 does not have
            vars(node).pop("type_params")
    return ast.dump(tree), imports


def _imports(tree: ast.Module) -> Iterator[str]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (f"{node.module}." if node.module else "")
            yield from (f"{origin}{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse  # the rest is never imported
        else:
            waiting += ast.iter_child_nodes(node)
