"""What is refused of the command line before Hydra composes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override
from hydra.errors import HydraException

from src.common.errors import UserError
from src.common.package import CONF, ROOT
from src.config.arguments import composing
from src.config.composition import explain, unknown_option
from src.config.option_files import (
    header_fault,
    headers,
    in_program,
    no_regular_file,
    not_a_mapping,
    wrong_header,
)
from src.config.value import shown

# Groups whose option Hydra may miss without a word.
_SWEEPS = "experiments"
_OPTIONAL = {"recipe": CONF / "recipe", _SWEEPS: ROOT / "experiments"}
# Groups of which every run has one option, which Hydra lets nobody remove in plain words.
_REQUIRED = ("dataset", "baseline", "teacher", "student", "kdci", "trainer", "logger", "paths")
_WITHIN = ("kdci/dictionary", "kdci/adjustment")
_CHOSEN = (*_REQUIRED, *_WITHIN, "setting", "pair", "budget")
_WIDTH, _INDENT = 80, 12


def options_of(group: str, plugins: Sequence[Path] = ()) -> str:
    """What can be chosen for a group, in the narrow lines of ``--help``.

    Args:
        group: Its name.
        plugins: Folders of the plug-ins' options.
    """
    names = ", ".join(_names([CONF / group, *(folder / group for folder in plugins)]))
    return f"\n{' ' * _INDENT}".join(wrap(names, _WIDTH - _INDENT))


def _names(folders: Sequence[Path]) -> list[str]:
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def refuse_shadowed_options(plugins: Sequence[Path]) -> None:
    """Refuse options of plug-ins that Hydra would pass over, as somebody else has that name.

    Args:
        plugins: Folders of the plug-ins' options.

    Raises:
        UserError: For the first that is also an option of ours, or of an earlier plug-in.
    """
    for place, folder in enumerate(plugins):
        for path in sorted(folder.rglob("*.yaml")):
            others = (other / path.relative_to(folder) for other in (CONF, ROOT, *plugins[:place]))
            taken = next((other for other in others if other.exists()), None)
            if taken is not None:
                raise UserError(
                    f"Refused '{path}': expected a name of its own, but '{in_program(taken)}' has "
                    "it already; rename the plug-in's"
                )


def refuse_unknown_options(arguments: Sequence[str], plugins: Sequence[Path] = ()) -> None:
    """Find what Hydra would pass over in silence, or refuse with a traceback.

    Misspelt options of the optional groups; files of those that are no configuration; groups
    that are removed, or set to something that is no option.

    Args:
        arguments: Those of the command line, understood.
        plugins: Folders of the plug-ins' options.

    Raises:
        UserError: For the first of them.
    """
    shows_more = bool(composing(arguments))  # of the user's own, which Hydra finds
    for argument in arguments:
        group, _, names = argument.partition("=")
        if not shows_more:
            _refuse_fitless(argument, [CONF, *plugins])
        if group in _OPTIONAL:
            folders = [_OPTIONAL[group], *(folder / group for folder in plugins)]
            _refuse_unknown(argument, folders)
        else:
            several: list[str | None] = [*_chosen(argument, [])]
            for name in several or [names if "=" in argument else None]:
                _refuse_no_option(group, name, plugins)


def refuse_one_run_of_sweep(arguments: Sequence[str], plugins: Sequence[Path] = ()) -> None:
    """Refuse an experiment with points of its own where Hydra would run one, without them.

    Args:
        arguments: Those of a command line that starts one run, understood.
        plugins: Folders of the plug-ins' options.

    Raises:
        UserError: If such an experiment is chosen.
    """
    folders = [_OPTIONAL[_SWEEPS], *(folder / _SWEEPS for folder in plugins)]
    known = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    for argument in arguments:
        group, _, name = argument.lstrip("+").partition("=")
        if group == _SWEEPS and _is_sweep(name.strip("'\""), known):
            raise UserError(
                f"Expected --multirun with {argument}, which is a sweep; add --multirun, or "
                "hydra.mode=RUN for one run without its points"
            )


def _is_sweep(name: str, known: Mapping[str, Path]) -> bool:
    """Whether an experiment, or one that it inherits from, says what hydra.sweeper.params are."""
    waiting, seen = [name], set[str]()
    while waiting:
        each = waiting.pop()
        if each in seen or each not in known:
            continue
        seen.add(each)
        content = _usable(known[each])
        if content.get("hydra"):
            return True
        waiting += [each for each in content.get("defaults") or () if isinstance(each, str)]
    return False


def _refuse_unknown(argument: str, folders: Sequence[Path]) -> None:
    group, _, given = argument.partition("=")
    if _parsed(argument) is None:  # Hydra says what it cannot read
        return
    known = {path.stem: path for folder in folders for path in folder.glob("*.yaml")}
    several = _chosen(argument, list(known))
    for name in several or [given.strip("'\"")]:
        if name not in known:
            raise UserError(unknown_option(group, name, sorted(known)))
        content = _usable(known[name])
        _refuse_wrong_header(known[name])
        if several and group == _SWEEPS and _may_sweep(content):
            raise UserError(
                f"Cannot sweep over {group}: '{in_program(known[name])}' is a sweep of its own, "
                f"whose points would be left out; give {group}={name} in a command of its own"
            )


def _may_sweep(content: Mapping[str, Any]) -> bool:
    """Whether a file has, or may inherit, what hydra.sweeper.params says: all it may say there."""
    inherited = content.get("defaults") or []
    return bool(content.get("hydra")) or any(
        isinstance(name, str) and name != "_self_" for name in inherited
    )


def _chosen(argument: str, known: list[str]) -> list[str]:
    """The options that a sweep goes through, in any of Hydra's words; none if it is no sweep."""
    override = _parsed(argument)
    if override is None:
        return []
    several = override.value()
    if isinstance(several, Glob):
        return several.filter(known)
    if isinstance(several, ChoiceSweep):
        return [name.strip("'\"") for name in override.sweep_string_iterator()]
    return []


def _parsed(argument: str) -> Override | None:
    """What Hydra makes of an argument; None where it cannot read it."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _is_name(value: str) -> bool:
    """Whether Hydra reads a name, or a pattern.

    Of a name it says itself whether it is one of an option.
    """
    override = _parsed(f"name={value}")
    return override is None or (value != "" and isinstance(override.value(), str | Glob))


def _refuse_fitless(argument: str, folders: Sequence[Path]) -> None:
    """Refuse a pattern that fits no option: Hydra sweeps over nothing, or its launcher fails."""
    override = _parsed(argument)
    pattern = None if override is None else override.value()
    if override is None or not isinstance(pattern, Glob) or override.key_or_group in _OPTIONAL:
        return
    known = _names([folder / override.key_or_group for folder in folders])
    if not pattern.filter(known):
        within = f" (one of: {', '.join(known)})" if known else ", since there is no such group"
        raise UserError(f"'{argument}' fits no option{within}")


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
    are_usable = isinstance(defaults, list) and all(
        isinstance(each, str) or (isinstance(each, dict) and len(each) == 1) for each in defaults
    )
    if not are_usable:
        raise UserError(
            f"Wrong value of 'defaults' in '{in_program(path)}': expected a list of options such "
            f"as `- override /dataset: digits`, but got {shown(defaults)}"
        )
    return content


def _refuse_wrong_header(path: Path) -> None:
    """Refuse a file of which Hydra cannot tell where its keys belong."""
    fault = header_fault(path)
    if not fault and not any("@package " in line for line in headers(path)):
        fault = wrong_header(path, "none")
    if fault:
        raise UserError(fault)


def _refuse_no_option(group: str, names: str | None, plugins: Sequence[Path]) -> None:
    """Refuse ``~kdci``, ``kdci=null`` and the like; ``names`` is None without ``=``."""
    is_removed = group.startswith("~")
    plain = group.removeprefix("~")
    base = plain.partition("@")[0]
    if not base:
        raise UserError(f"Cannot read the argument '{group}={names or ''}': expected key=value")
    if base not in ((*_REQUIRED, *_WITHIN) if is_removed else _CHOSEN):
        return
    known = _names([folder / base for folder in (CONF, *plugins)])
    cure = "; for a run without compensation use kdci=none" if base == "kdci" else ""
    if is_removed:
        raise UserError(
            f"Cannot remove the group '{plain}': every run needs one{cure} (one of: "
            f"{', '.join(known)})"
        )
    is_part = base == "budget" and "/" in (names or "")  # of a budget, by method or schedule
    if names is not None and names not in known and (is_part or not _is_name(names)):
        raise UserError(f"{unknown_option(plain, names, ())}{cure} (one of: {', '.join(known)})")
