"""What is refused of the command line before Hydra composes."""

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml  # type: ignore[import-untyped]

from src.common.errors import UserError
from src.common.package import CONF
from src.config.arguments import parsed
from src.config.composition import explain, unknown_option
from src.config.flags import replaces_ours
from src.config.option_files import (
    OPTIONAL,
    SWEEPS,
    header_fault,
    headers,
    in_program,
    names_in,
    no_regular_file,
    not_a_mapping,
    places_of,
    wrong_header,
)
from src.config.points import chosen
from src.config.value import shown

# Groups of which every run has one option, which Hydra lets nobody remove in plain words.
_REQUIRED = ("dataset", "baseline", "teacher", "student", "kdci", "trainer", "logger", "paths")
_WITHIN = ("kdci/dictionary", "kdci/adjustment")
_CHOSEN = (*_REQUIRED, *_WITHIN, "setting", "pair", "budget")
_WIDTH, _INDENT = 80, 12


def options_of(group: str, more: Sequence[Path] = ()) -> str:
    """What can be chosen for a group, in the narrow lines of ``--help``.

    Args:
        group: Its name.
        more: Folders of options beside ours: the plug-ins', and the user's own.
    """
    names = ", ".join(names_in(places_of(group, more)))
    return f"\n{' ' * _INDENT}".join(wrap(names, _WIDTH - _INDENT))


def refuse_shadowed_options(more: Sequence[Path]) -> None:
    """Refuse options that Hydra would pass over, as somebody else has that name.

    Args:
        more: Folders of options beside ours, in the order in which Hydra searches them.

    Raises:
        UserError: For the first that is also an option of ours, or of an earlier folder.
    """
    for place, folder in enumerate(more):
        for other in (CONF, *more[:place]):
            for taken in sorted(other.rglob("*.yaml")):
                _refuse_second(folder / taken.relative_to(other), taken)
        for taken in sorted(OPTIONAL[SWEEPS].glob("*.yaml")):
            _refuse_second(folder / SWEEPS / taken.name, taken)


def _refuse_second(path: Path, taken: Path) -> None:
    if path.exists() and not path.samefile(taken):
        raise UserError(
            f"Refused '{path}': expected a name of its own, but '{in_program(taken)}' has "
            "it already; rename the former"
        )


def refuse_unknown_options(arguments: Sequence[str], more: Sequence[Path] = ()) -> None:
    """Find what Hydra would pass over in silence, or refuse with a traceback.

    Misspelt options of the optional groups; files of those that are no configuration; groups
    that are removed, or set to something that is no option.

    Args:
        arguments: Those of the command line, understood, without patterns.
        more: Folders of options beside ours.

    Raises:
        UserError: For the first of them.
    """
    is_ours = not replaces_ours(arguments)
    for argument in arguments:
        group, _, names = argument.partition("=")
        if group in OPTIONAL and is_ours:
            _refuse_unknown(argument, places_of(group, more))
        else:
            several: list[str | None] = [*chosen(argument)]
            for name in several or [names if "=" in argument else None]:
                _refuse_no_option(group, name, more)


def _refuse_unknown(argument: str, folders: Sequence[Path]) -> None:
    group, _, given = argument.partition("=")
    if parsed(argument) is None:  # Hydra says what it cannot read
        return
    known = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    for name in chosen(argument) or [given.strip("'\"")]:
        if name not in known:
            cure = f"; without one, leave it out, or give '~{group}'" if name == "null" else ""
            raise UserError(f"{unknown_option(group, name, sorted(known))}{cure}")
        _usable(known[name])
        _refuse_wrong_header(known[name])


def _is_name(value: str) -> bool:
    """Whether Hydra reads a name; it says itself whether it is one of an option."""
    override = parsed(f"name={value}")
    return override is None or (value != "" and isinstance(override.value(), str))


def _usable(path: Path) -> dict[str, Any]:
    """What a file holds, unless it has no keys, or defaults that Hydra would choke on."""
    if not path.is_file():  # a pipe or a device would never end
        raise UserError(no_regular_file(path))
    try:
        with path.open(encoding="utf-8") as stream:  # which gives errors the file's name
            content = yaml.load(stream, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(explain(error, ())) from error
    except RecursionError as error:
        raise UserError(
            f"Cannot read '{in_program(path)}': it is nested too deeply; expected a configuration"
        ) from error
    if not isinstance(content, dict):
        got = "a list" if isinstance(content, list) else shown(content)
        got = "an empty file" if content is None else got
        raise UserError(not_a_mapping(in_program(path), got))
    defaults = content.get("defaults", [])
    if not isinstance(defaults, list) or not all(map(_is_default, defaults)):
        raise UserError(
            f"Wrong value of 'defaults' in '{in_program(path)}': expected a list of options such "
            f"as `- override /dataset: digits`, but got {shown(defaults)}"
        )
    return content


def _is_default(entry: Any) -> bool:
    """Whether Hydra takes an entry of ``defaults``: a name that is no number, or a group's."""
    if isinstance(entry, str):
        return _is_name(entry.partition("@")[0])
    if not isinstance(entry, dict) or len(entry) != 1:
        return False
    (names,) = entry.values()
    return isinstance(names, str) or (
        isinstance(names, list) and all(isinstance(each, str) for each in names)
    )


def _refuse_wrong_header(path: Path) -> None:
    """Refuse a file of which Hydra cannot tell where its keys belong."""
    fault = header_fault(path)
    if not fault and not any("@package " in line for line in headers(path)):
        fault = wrong_header(path, "none")
    if fault:
        raise UserError(fault)


def _refuse_no_option(group: str, names: str | None, more: Sequence[Path]) -> None:
    """Refuse ``~kdci``, ``kdci=null`` and the like; ``names`` is None without ``=``."""
    is_removed = group.startswith("~")
    plain = group.removeprefix("~")
    base = plain.partition("@")[0]
    if not base:
        raise UserError(f"Cannot read the argument '{group}={names or ''}': expected key=value")
    if base not in ((*_REQUIRED, *_WITHIN) if is_removed else _CHOSEN):
        return
    known = names_in(places_of(base, more))
    cure = "; for a run without compensation use kdci=none" if base == "kdci" else ""
    if is_removed:
        raise UserError(
            f"Cannot remove the group '{plain}': every run needs one{cure} (one of: "
            f"{', '.join(known)})"
        )
    is_part = base == "budget" and "/" in (names or "")  # of a budget, by method or schedule
    if names is not None and names not in known and (is_part or not _is_name(names)):
        raise UserError(f"{unknown_option(plain, names, ())}{cure} (one of: {', '.join(known)})")
