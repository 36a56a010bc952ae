"""The command line as people write it, put into words that Hydra understands."""

import re
from collections.abc import Iterator, Sequence
from os.path import expanduser
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from src.common.errors import UserError
from src.common.package import CONF, ROOT
from src.config.flags import (
    HOME,
    MODE,
    ONE_RUN,
    is_multirun,
    is_override,
    own_folders,
    refuse_unknown_flags,
)
from src.config.option_files import PARAMS, SEARCH_PATH, SWEEPS
from src.config.value import shown

_PLUGINS = "plugins"
_ONE_PLUGIN = re.compile(r"(\+*plugins)=(\w+)")
# Hydra's own option of that name minimises, and none of ours can have it.
_SWEEPERS = {"hydra/sweeper=optuna": "hydra/sweeper=search"}
# Hydra looks at interpolated options last, when the data set and method are known that a setting's
# budget is found by.
_OPTION = r"(?!(?i:null|true|false|nan|inf)(?![\w-]))[A-Za-z_][\w-]*"
_SETTING = re.compile(rf"setting={_OPTION}(,{_OPTION})*")
# As understood, and as Hydra's sweeper gives it to a point.
_LATE = re.compile(r"(setting=)\$\\?\{oc\.decode\\?:([\w-]+)\\?\}")
_PATH_FLAG = re.compile("--config-[pd].*|-cp|-cd")  # in full, or as short as it can be
_FOLDERS = ("hydra.sweep.dir", "hydra.run.dir")
_POINTS = (f"{PARAMS}.", "hydra.sweeper.search_space.")  # the latter is Optuna's older word
_KEY = r"[\w.@/]+"
_REPLACED = re.compile(rf"({_KEY}\.\w+)=(\{{.*\b_target_\b.*)", re.DOTALL)
_PATH = re.compile(rf"(\+*{_KEY})=(~|[^'\"].*[/\\].*)", re.DOTALL)
# These keys hold nothing but paths, also without a folder: epoch=4.ckpt, as Lightning names it.
_NAMED_PATH = re.compile(rf"(\+*(?:{_KEY}\.)?(?:root|checkpoint|class_map))=([^'\"].*)", re.DOTALL)


def folders_of(overrides: Sequence[str]) -> list[Path]:
    """Folders of options: ours, those of plug-ins on the search path, and the user's own."""
    path = next((each for each in overrides if each.startswith(f"{SEARCH_PATH}=")), "")
    _, *plugins = re.findall(r"'file://((?:\\'|[^'])*)'", path) or [""]
    unescaped = (Path(folder.replace(r"\'", "'")) for folder in plugins)
    return [CONF, *unescaped, *own_folders(overrides)]


def files_of(overrides: Sequence[str]) -> list[Path]:
    """All option files that a command line can reach."""
    folders = [*folders_of(overrides), ROOT / SWEEPS]
    found = (path for folder in folders for path in folder.rglob("*.yaml"))
    return sorted(path for path in found if path.is_file())


def understood(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra has to be given them.

    Flags come first, since argparse takes no overrides on both sides of one. A path with special
    characters is quoted. A node with a ``_target_`` replaces another; Hydra would mix the two.
    One plug-in needs no brackets, which some shells take for a pattern. A search is ours.

    Raises:
        UserError: If a flag is unknown or lacks its value, or an override sets Hydra's mode.
    """
    ordered = [_at_home(argument) for argument in sorted(arguments, key=is_override)]
    refuse_unknown_flags(ordered)
    several = is_multirun(ordered)
    _refuse_mode(ordered, several)
    _refuse_params(ordered)
    ordered = [_ONE_PLUGIN.sub(r"\1=[\2]", argument) for argument in ordered]
    ordered = [_SWEEPERS.get(re.sub("['\"]", "", argument), argument) for argument in ordered]
    ordered = [_late(argument, several) for argument in ordered]
    return [each for argument in ordered for each in _replacing(_quoted(argument, several))]


def as_typed(overrides: Sequence[str]) -> list[str]:
    """Understood overrides, or those of a point, with the setting in the words of the user."""
    return [_LATE.sub(r"\1\2", each) for each in overrides]


def plugins_of(arguments: Sequence[str]) -> list[str]:
    """The packages of other people that understood arguments allow.

    Raises:
        UserError: If that is no list of names.
    """
    given: Any = []
    for argument in arguments:
        if is_override(argument) and key_of(argument) == _PLUGINS:
            given = _value(argument)
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise UserError(
            f"Wrong value of 'plugins': expected a list of packages, such as plugins=[mylab], but "
            f"got {shown(given)}"
        )
    return given


def require_typed(given: Any, typed: Sequence[str]) -> None:
    """Refuse plug-ins that the command line does not allow: a file must not allow itself to run.

    Args:
        given: Those of the composed configuration.
        typed: Those of the command line.

    Raises:
        UserError: If they are others.
    """
    if given != typed:
        raise UserError(
            f"Refused 'plugins' of a configuration file: expected {typed}, as on the command "
            f"line, which alone says what may be run, but got {shown(given)}; give plugins=[...] "
            "there"
        )


def search_path(conf: Sequence[Path], arguments: Sequence[str]) -> list[str]:
    """What makes Hydra find the options of plug-ins.

    Args:
        conf: Folders of their options.
        arguments: Those of the command line, understood.

    Raises:
        UserError: If the command line has a search path of its own, which would take the place of
            the one that experiments and plug-ins are found by.
    """
    if any(key_of(argument) == SEARCH_PATH for argument in arguments):
        raise UserError(
            f"Cannot use {SEARCH_PATH}, by which experiments and plug-ins are found; give "
            "--config-dir=FOLDER for options of your own, or plugins=[PACKAGE]"
        )
    if not conf:
        return []
    escaped = [str(folder).replace("'", r"\'") for folder in (ROOT, *conf)]
    folders = ",".join(f"'file://{folder}'" for folder in escaped)
    return [f"{SEARCH_PATH}=[{folders}]"]


def parsed(argument: str) -> Override | None:
    """What Hydra makes of an override; None where it cannot read it."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def key_of(argument: str) -> str:
    """What an override sets, adds or overrides by force."""
    return argument.partition("=")[0].lstrip("+")


def _value(argument: str) -> Any:
    """What Hydra reads of an override; nothing that is a list, where it is several or none."""
    override = parsed(argument)
    if override is None:
        return argument.partition("=")[2]
    return override.value() if not override.is_sweep_override() else override.get_value_string()


def _refuse_mode(arguments: Sequence[str], several: bool) -> None:
    """Refuse a sweep that is asked for in words that are no flag, and have many spellings."""
    for argument in arguments:
        if key_of(argument) == MODE and argument != ONE_RUN:
            raise UserError(
                f"Refused '{argument}': expected --multirun for a sweep, or {ONE_RUN} for one run"
            )
        if argument == ONE_RUN and several:
            raise UserError(f"Expected --multirun or {ONE_RUN}, but got both; leave one out")


def _refuse_params(arguments: Sequence[str]) -> None:
    """Refuse what Hydra merges into a node that only a sweep's file has, with a traceback."""
    for argument in arguments:
        if key_of(argument) == f"~{PARAMS}":
            raise UserError(
                f"Cannot use '{argument}': give {ONE_RUN} for one run without the points of a "
                f"file, or leave out one of them, as with ~{PARAMS}.seed"
            )
        if is_override(argument) and f"{key_of(argument)}.".startswith(_POINTS):
            raise UserError(
                f"Cannot use '{argument}': expected the values of a sweep themselves, as in "
                f"seed=0,1; leave {PARAMS} to files"
            )


def _at_home(argument: str) -> str:
    """A path of Hydra's own for which the shell has not put the home folder in the place of ~."""
    flag, given, value = argument.partition("=")
    if given and (_PATH_FLAG.fullmatch(flag) or key_of(argument) in _FOLDERS):
        return f"{flag}={expanduser(value)}"
    return expanduser(argument) if HOME.match(argument) else argument  # a flag's, after it


def _late(argument: str, several: bool) -> str:
    """A setting that Hydra looks at last, or one for each point of a sweep."""
    typed = _SETTING.fullmatch(argument)
    if typed is None or (typed[1] and not several):  # which Hydra refuses as typed
        return argument
    names = argument.removeprefix("setting=").split(",")
    return "setting=" + ",".join(f"${{oc.decode:{name}}}" for name in names)


def _quoted(argument: str, several: bool) -> str:
    """A path that Hydra could not read, or would take for several, in quotes.

    Args:
        argument: An override, or a flag.
        several: Whether commas part the points of a sweep.
    """
    path = _PATH.fullmatch(argument) or _NAMED_PATH.fullmatch(argument)
    if path is None or _is_read(argument, several):
        return argument
    values = path[2].split(",") if several else [path[2]]
    quoted = ",".join("'" + value.replace("'", r"\'") + "'" for value in values)
    candidate = f"{path[1]}={quoted}"
    return candidate if _is_read(candidate, several) else argument


def _is_read(argument: str, several: bool) -> bool:
    override = parsed(argument)
    return override is not None and (several or not override.is_sweep_override())


def _replacing(argument: str) -> Iterator[str]:
    node = _REPLACED.fullmatch(argument)
    if node is None:
        yield argument
    else:
        yield f"~{node[1]}"
        yield f"+{node[1]}={node[2]}"
