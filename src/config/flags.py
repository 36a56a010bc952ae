"""Hydra's flags among the arguments: what they ask for, and where they find options."""

import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from src.common.errors import UserError, nearest
from src.config.value import shown

_COMMANDS = "run", "multirun", "cfg", "info", "shell_completion"  # of which Hydra heeds one
_SHOWING = "help", "hydra_help"  # which come before all of them
MODE = "hydra.mode"
ONE_RUN = f"{MODE}=RUN"  # which points are given
# They say of what a configuration is composed, and stand in no override.
_COMPOSING = "config_name", "config_path", "config_dir"
HOME = re.compile(r"~(/|$)")


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether they ask for a sweep, in any of the words that Hydra takes for it.

    Raises:
        UserError: If a flag lacks its value.
    """
    return bool(_flags(arguments)[0].multirun)


def is_one_run(arguments: Sequence[str]) -> bool:
    """Whether understood arguments start a single run, and do not say so."""
    given, _ = _flags(arguments)
    shows = any(getattr(given, name) not in (None, False) for name in (*_SHOWING, *_COMMANDS[1:]))
    return not shows and ONE_RUN not in arguments


def composing(arguments: Sequence[str]) -> list[str]:
    """What understood arguments say of where the configuration is, for points and ranks."""
    given, _ = _flags(arguments)
    values = {name: getattr(given, name) for name in _COMPOSING}
    return [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value]


def asked(arguments: Sequence[str]) -> list[str]:
    """What understood arguments ask for, in their order, but for how it is shown or started."""
    given, _ = _flags(arguments)
    where = (given.config_name, given.config_path, *own_folders(arguments))
    return [*(str(each) for each in where if each), *given.overrides]


def own_folders(arguments: Sequence[str]) -> list[Path]:
    """The folder of the user's own options, to be searched after ours, in understood arguments.

    Raises:
        UserError: If it is none.
    """
    given, _ = _flags(arguments)
    if not given.config_dir:
        return []
    folder = Path(given.config_dir).absolute()
    if not folder.is_dir():
        raise UserError(f"Expected --config-dir to be a folder, but got {shown(str(folder))}")
    return [folder]


def replaces_ours(arguments: Sequence[str]) -> bool:
    """Whether they name a folder of options that stands in the place of ``conf``."""
    return bool(_flags(arguments)[0].config_path)


def is_override(argument: str) -> bool:
    """Whether it sets or removes a key, and is neither a flag nor a flag's value."""
    is_removal = argument.startswith("~") and not HOME.match(argument)
    return not argument.startswith("-") and ("=" in argument or is_removal)


def refuse_unknown_flags(arguments: Sequence[str]) -> None:
    """Refuse flags that Hydra does not know, cannot heed together, or that lack a value.

    Raises:
        UserError: For the first of them.
    """
    given, unknown = _flags(arguments)
    for name in _COMPOSING:
        if getattr(given, name) == "":
            raise UserError(f"Expected a value of --{name.replace('_', '-')}, but got nothing")
    asked = [f"--{name}" for name in _COMMANDS if getattr(given, name) not in (None, False)]
    if len(asked) > 1 and not any(getattr(given, name) for name in _SHOWING):
        raise UserError(f"Expected one of the flags {' and '.join(asked)}; leave the others out")
    for flag in unknown:
        if not flag.startswith("-"):  # an override, which the composition will judge
            continue
        plain = flag.lstrip("-")
        if "=" in plain:
            cure = f"; options are written without dashes: {plain}"
        else:
            actions = get_args_parser()._actions
            known = [name for action in actions for name in action.option_strings]
            cure = f"{nearest(flag, known)} (one of: {', '.join(known)}); options are key=value"
        raise UserError(f"Unknown flag '{flag}'{cure}")


def _flags(arguments: Sequence[str]) -> tuple[Namespace, list[str]]:
    """What Hydra's own parser makes of arguments, and what it does not know."""
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"Cannot read the command line: {message}")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_known_args(sorted(arguments, key=is_override))
