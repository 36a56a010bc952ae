"""What a sweep goes through: values, ranges, and patterns of the options of a group."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep

from src.common.errors import UserError
from src.config.arguments import parsed, replaces_ours
from src.config.option_files import BASE, names_in, places_of

_LISTED = "list the values, as in kdci=none,backdoor"


def without_patterns(arguments: Sequence[str], more: Sequence[Path] = ()) -> list[str]:
    """The arguments with what patterns fit in their place.

    Hydra itself would look for it in ``conf`` alone, make no points where there is nothing, and
    not let every sweeper and launcher have it.

    Args:
        arguments: Those of the command line, understood.
        more: Folders of options beside ours.

    Raises:
        UserError: If a pattern fits no option, or stands where it cannot be looked for.
    """
    is_ours = not replaces_ours(arguments)
    return [_without_pattern(argument, more, is_ours) for argument in arguments]


def _without_pattern(argument: str, more: Sequence[Path], is_ours: bool) -> str:
    override, value = _read(argument)
    if isinstance(value, ChoiceSweep) and any(isinstance(each, Glob) for each in value.list):
        raise UserError(f"Cannot use a pattern within '{argument}'; {_LISTED}")
    if override is None or not isinstance(value, Glob):
        return argument
    if not is_ours:
        raise UserError(f"Cannot use '{argument}' with --config-path; {_LISTED}")
    key, group = argument.partition("=")[0], override.key_or_group
    known = [name for name in names_in(places_of(group, more)) if name != BASE]
    fitting = value.filter(known)
    if not fitting:
        within = f" (one of: {', '.join(known)})" if known else ", since no such group is ours"
        raise UserError(f"'{argument}' fits no option{within}")
    return f"{key}={','.join(fitting)}"


def refuse_without_points(overrides: Iterable[str]) -> None:
    """Refuse sweeps over nothing, which end in various ways, and patterns in files.

    Args:
        overrides: Of the command line, and ``key=value`` of ``hydra.sweeper.params``.

    Raises:
        UserError: For the first of them.
    """
    for each in overrides:
        _, value = _read(each)
        if isinstance(value, Glob):
            raise UserError(f"Cannot use '{each}' in hydra.sweeper.params; {_LISTED}")
        if isinstance(value, RangeSweep) and not (value.step and any(True for _ in value.range())):
            raise UserError(f"Expected values in the range '{each}', but there is none")


def chosen(argument: str) -> list[str]:
    """The options that a sweep goes through, in any of Hydra's words; none if it is no sweep."""
    override, value = _read(argument)
    if override is None or not isinstance(value, ChoiceSweep):
        return []
    return [name.strip("'\"") for name in override.sweep_string_iterator()]


def _read(argument: str) -> tuple[Override | None, Any]:
    """What Hydra makes of an argument, and its value."""
    override = parsed(argument)
    return override, None if override is None else override.value()
