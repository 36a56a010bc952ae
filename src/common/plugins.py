"""Packages of other people that a command allows to run: what may be one, and where it lies."""

import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

from src.common.errors import UserError
from src.common.package import NAME

_PROGRAM = "kdci"


def refuse_unfit_plugins(names: Sequence[str]) -> None:
    """Make sure that allowing some packages allows these packages only; imports none of them.

    Raises:
        UserError: For the first that is no package of its own: a name with dots, a module, a part
            of Python, of this program or of what it needs, or nothing that Python finds.
    """
    for name in names:
        fault = _fault(name)
        if fault:
            raise UserError(f"Refused 'plugins=[{name}]': {fault}")


def folders_of(plugin: str) -> list[Path]:
    """Folders of a package, without importing it; none where Python finds no package.

    Without an ``__init__.py`` it can have several.
    """
    spec = find_spec(plugin)
    places = spec.submodule_search_locations if spec else None
    return [Path(place) for place in places or () if Path(place).is_dir()]


def conf_of(plugins: Iterable[str]) -> list[Path]:
    """The folders ``conf`` of those packages that have one."""
    folders = (folder / "conf" for name in dict.fromkeys(plugins) for folder in folders_of(name))
    return [folder for folder in folders if folder.is_dir()]


def is_within(target: str, plugins: Iterable[str]) -> bool:
    """Whether a dotted name is one of these packages."""
    return target.startswith(tuple(f"{name}." for name in plugins))


def _fault(name: str) -> str | None:
    """What speaks against a package; None if nothing does."""
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_]*", name):
        return "expected the name of a package, without dots: all within it is allowed with it"
    if name in sys.stdlib_module_names:
        return "expected a package of your own, but this one is Python's"
    if name in (NAME, _PROGRAM):
        return "expected a package of your own, but this one is the program itself"
    folders = folders_of(name)
    if not folders:
        return _not_there(name)
    # Which distributions have brought what takes half a second to read; many a plug-in is a plain
    # folder, which none has.
    is_installed = any(True for folder in folders for _ in folder.parent.glob("*.*-info"))
    needed = _needed().intersection(_brought_by(name)) if is_installed else None
    if needed:
        return f"expected a package of your own, but the program needs {min(needed)} itself"
    return None


def _not_there(name: str) -> str:
    spec = find_spec(name)
    if spec is None:
        return (
            "Python finds no such package; install it, or put the folder that it lies in on "
            "PYTHONPATH"
        )
    return f"expected a folder of Python files, but got '{spec.origin}'"


@cache
def _brought_by(package: str) -> frozenset[str]:
    """Names of the distributions that have brought an installed package."""
    return frozenset(map(_normal, packages_distributions().get(package, ())))


@cache
def _needed() -> frozenset[str]:
    """Distributions that this program needs, extras included, and all that these need."""
    try:
        waiting = ["pip", *(requires(_PROGRAM) or [])]
    except PackageNotFoundError as error:
        raise UserError(
            f"Expected {_PROGRAM} to be installed, which tells its packages from yours; run "
            "`pip install -e .` in the program's folder"
        ) from error
    found = {_PROGRAM}
    while waiting:
        name = _normal(re.split(r"[^\w.-]", waiting.pop(), maxsplit=1)[0])
        if name not in found:
            found.add(name)
            waiting += _requirements(name)
    return frozenset(found - {_PROGRAM})


def _requirements(distribution: str) -> list[str]:
    """What an installed distribution needs in any case: what only its extras do is not ours."""
    try:
        needed = requires(distribution) or []
    except PackageNotFoundError:
        return []
    return [each for each in needed if "extra ==" not in each]


def _normal(distribution: str) -> str:
    """The one way to write a distribution's name."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
