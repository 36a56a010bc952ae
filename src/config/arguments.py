"""The command line as people write it, put into words that Hydra understands."""

import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from src.common.errors import UserError, nearest

_MULTIRUN = {"-m", "--multirun"}
_KEY = r"[\w.@/]+"
_REPLACED = re.compile(rf"({_KEY}\.\w+)=(\{{.*\b_target_\b.*)", re.DOTALL)
_PATH = re.compile(rf"(\+*{_KEY})=(~|[^'\"].*[/\\].*)", re.DOTALL)
# These keys hold nothing but paths, also without a folder: epoch=4.ckpt, as Lightning names it.
_NAMED_PATH = re.compile(rf"(\+*(?:{_KEY}\.)?(?:root|checkpoint|class_map))=([^'\"].*)", re.DOTALL)


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether they ask for a sweep."""
    return bool(_MULTIRUN & set(arguments))


def understood(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra has to be given them.

    Flags come first, since argparse takes no overrides on both sides of one. A path with special
    characters is quoted. A node with a ``_target_`` replaces another; Hydra would mix the two.

    Raises:
        UserError: If a flag is unknown, or lacks its value.
    """
    ordered = sorted(arguments, key=_is_override)
    _refuse_unknown_flags(ordered)
    several = is_multirun(ordered)
    return [each for argument in ordered for each in _replacing(_quoted(argument, several))]


def _is_override(argument: str) -> bool:
    return not argument.startswith("-") and ("=" in argument or argument.startswith("~"))


def _refuse_unknown_flags(arguments: Sequence[str]) -> None:
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise UserError(f"Cannot read the command line: {message}")

    parser.error = refuse  # type: ignore[method-assign]
    _, unknown = parser.parse_known_args(list(arguments))
    for flag in unknown:
        if not flag.startswith("-"):  # an override, which the composition will judge
            continue
        plain = flag.lstrip("-")
        if "=" in plain:
            cure = f"; options are written without dashes: {plain}"
        else:
            known = [name for action in parser._actions for name in action.option_strings]
            cure = f"{nearest(flag, known)} (one of: {', '.join(known)}); options are key=value"
        raise UserError(f"Unknown flag '{flag}'{cure}")


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
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return several or not override.is_sweep_override()


def _replacing(argument: str) -> Iterator[str]:
    node = _REPLACED.fullmatch(argument)
    if node is None:
        yield argument
    else:
        yield f"~{node[1]}"
        yield f"+{node[1]}={node[2]}"
