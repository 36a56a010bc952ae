"""What a sweep goes through: values, ranges, and patterns of the options of a group."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep

from src.common.errors import UserError
from src.config.arguments import parsed, replaces_ours
from src.config.option_files import BASE, SWEEPS, names_in, places_of

_LISTED = "list the values, as in kdci=none,backdoor"
_WITHIN = re.compile(r"\b(choice|sort|shuffle)\(.*\bglob\(")
# What is chosen before the points of a file are known.
_TYPED = ("setting", SWEEPS, "plugins")


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
    is_within = override is None and _WITHIN.search(argument)
    several = value.list if isinstance(value, ChoiceSweep) else ()
    if is_within or any(isinstance(each, Glob) for each in several):
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


def refuse_patterns(arguments: Iterable[str]) -> None:
    """Refuse patterns of options where one run is started.

    Raises:
        UserError: For the first of them.
    """
    for argument in arguments:
        if isinstance(_read(argument)[1], Glob):
            raise UserError(
                f"Expected one option in '{argument}', but a pattern chooses several; give one, "
                "or add --multirun"
            )


def refuse_contradictions(arguments: Iterable[str]) -> None:
    """Refuse two values of one key in a sweep, of which Hydra drops all but the last.

    Args:
        arguments: Those of the command line, understood.

    Raises:
        UserError: For the first key that goes through values and is given twice.
    """
    read = [(each, override) for each in arguments if (override := parsed(each)) is not None]
    often = Counter(override.get_key_element().lstrip("+") for _, override in read)
    for argument, override in read:
        key = override.get_key_element().lstrip("+")
        if often[key] > 1 and (override.is_sweep_override() or key == SWEEPS):
            raise UserError(
                f"Expected '{key}' once in a sweep, as in '{argument}', but it is given "
                f"{often[key]} times; leave all but one out"
            )


def refuse_unfit_points(typed: Iterable[str], listed: Mapping[str, Any]) -> None:
    """Refuse sweeps over nothing, which end in various ways, or over what no file can choose.

    Args:
        typed: Overrides of the command line.
        listed: Those of ``hydra.sweeper.params`` that are not typed.

    Raises:
        UserError: For the first of them.
    """
    for key in listed:
        if key in _TYPED:
            raise UserError(
                f"Cannot use '{key}' in hydra.sweeper.params: expected it on the command line, "
                f"{key}={listed[key]}"
            )
    for each in (*typed, *(f"{key}={value}" for key, value in listed.items())):
        override, value = _read(each)
        if isinstance(value, Glob):
            raise UserError(f"Cannot use '{each}' in hydra.sweeper.params; {_LISTED}")
        if isinstance(value, RangeSweep):
            _refuse_unfit_range(each, value)
        if override is not None and override.key_or_group == "paths.outputs" and is_several(each):
            raise UserError(f"Expected one paths.outputs for all points, but got '{each}'")


def _refuse_unfit_range(argument: str, values: RangeSweep) -> None:
    ends = [each for each in (values.start, values.stop, values.step) if each is not None]
    if not all(isfinite(each) for each in ends):
        raise UserError(f"Expected finite numbers in the range '{argument}'")
    if not (values.step and any(True for _ in values.range())):
        raise UserError(f"Expected values in the range '{argument}', but there is none")


def is_several(argument: str) -> bool:
    """Whether a sweep goes through what it gives."""
    override = parsed(argument)
    return override is not None and override.is_sweep_override()


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
