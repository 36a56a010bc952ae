"""What a sweep goes through: values, ranges, and patterns of the options of a group."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep
from omegaconf import DictConfig

from src.common.errors import UserError
from src.config.arguments import key_of, parsed
from src.config.flags import replaces_ours
from src.config.option_files import BASE, PARAMS, SWEEPS, names_in, places_of

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
    keys = [key_of(argument) for argument, _ in read]
    often = Counter(keys)
    for key, (argument, override) in zip(keys, read, strict=True):
        if often[key] > 1 and (override.is_sweep_override() or key == SWEEPS):
            raise UserError(
                f"Expected '{key}' once in a sweep, as in '{argument}', but it is given "
                f"{often[key]} times; leave all but one out"
            )


def listed(params: Mapping[str, Any] | None, typed: Iterable[str]) -> list[str]:
    """The points of a sweep's files that are not typed, as ``key=value``.

    Args:
        params: ``hydra.sweeper.params``.
        typed: Overrides of the command line.
    """
    given = set(map(key_of, typed))
    return [f"{key}={value}" for key, value in (params or {}).items() if key_of(key) not in given]


def refuse_unfit_params(params: Mapping[str, Any], typed: Iterable[str]) -> None:
    """Refuse points of files that Hydra would read too late, or as others than the typed ones.

    Args:
        params: ``hydra.sweeper.params``.
        typed: Overrides of the command line.

    Raises:
        UserError: For the first of them.
    """
    given = {key_of(each): each for each in typed}
    for key, value in params.items():
        as_typed = given.get(key_of(key))
        if as_typed is None and key_of(key).partition("@")[0] in _TYPED:
            raise UserError(
                f"Cannot use '{key}' in {PARAMS}: expected it on the command line, {key}={value}"
            )
        if as_typed and not as_typed.startswith(f"{key}="):  # Hydra would keep both, and heed one
            raise UserError(
                f"Expected '{key}=...' as in {PARAMS}, whose values it takes the place of, but "
                f"got '{as_typed}'; write it as there"
            )


def guard_hydra() -> None:
    """Make Hydra refuse a point whose options have other points than its sweep goes through.

    It reads the points of files before it has chosen among the options that it sweeps over. It
    composes all points before it starts the first, or those of a batch where there are several; a
    search composes them one by one.
    """
    compose = ConfigLoaderImpl.load_sweep_config
    compose = getattr(compose, "unguarded", compose)

    @wraps(compose)
    def load_sweep_config(self: Any, master_config: Any, sweep_overrides: list[str]) -> DictConfig:
        config = compose(self, master_config, sweep_overrides)
        typed = master_config.hydra.overrides.task
        own, all_have = (
            sorted(listed(each.hydra.sweeper.get("params"), typed))  # in any order of options
            for each in (config, master_config)
        )
        if own != all_have:
            raise UserError(
                f"Expected the same values in {PARAMS} for all points, but "
                f"'{' '.join(sweep_overrides)}' has {' '.join(own) or 'none'} where the sweep "
                f"goes through {' '.join(all_have) or 'none'}; give them on the command line, or "
                "such an option in a command of its own"
            )
        return config

    load_sweep_config.unguarded = compose  # type: ignore[attr-defined]
    ConfigLoaderImpl.load_sweep_config = load_sweep_config  # type: ignore[method-assign]


def refuse_unfit_points(points: Iterable[str]) -> None:
    """Refuse sweeps over nothing, which end in various ways, or over what all points share.

    Args:
        points: Overrides of the command line, and those that are listed in files.

    Raises:
        UserError: For the first of them.
    """
    for each in points:
        override, value = _read(each)
        if isinstance(value, Glob):
            raise UserError(f"Cannot use '{each}' in {PARAMS}; {_LISTED}")
        if isinstance(value, RangeSweep):
            _refuse_unfit_range(each, value)
        if override and override.key_or_group == "paths.outputs" and is_several(each):
            raise UserError(f"Expected one paths.outputs for all points, but got '{each}'")


def _refuse_unfit_range(argument: str, values: RangeSweep) -> None:
    ends = [each for each in (values.start, values.stop, values.step) if each is not None]
    if not all(isinstance(each, int) or isfinite(each) for each in ends):
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
