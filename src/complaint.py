"""One line for everything that the user can mend."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.common.errors import RankError, UserError, nearest
from src.common.signals import Interrupted
from src.naming import CONF, ROOT
from src.value import shown

# Groups whose option Hydra may miss without a word.
_OPTIONAL = {"recipe": CONF / "recipe", "experiments": ROOT / "experiments"}
# Groups of which every run has one option, which Hydra lets nobody remove in plain words.
_REQUIRED = ("dataset", "baseline", "teacher", "student", "kdci", "trainer", "logger", "paths")
_CHOSEN = (*_REQUIRED, "setting", "budget")
_NO_NAME = re.compile(r"|null|true|false|[-+]?[\d.]+|[\[{].*", re.IGNORECASE)

# Torch's own class exists for GPUs only; its CPU allocator raises a bare RuntimeError.
_OUT_OF_MEMORY = re.compile("not enough memory|out of memory|can't allocate memory")

COMPOSITION_ERRORS: tuple[type[Exception], ...] = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    UnicodeDecodeError,
)
"""What a configuration that cannot be composed raises; :func:`explain` puts it in one line."""


@contextmanager
def complaints(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Turn failures into one line and an exit code: 2 where the user can mend them, else 1.

    A signal that asked the run to stop gives 128 plus its number. ``SystemExit``, because Hydra
    adds lines of its own to every other exception.

    Args:
        arguments: Those of the command line, for hints about them.
    """
    try:
        yield
    except (Exception, Interrupted) as error:
        line = _line(error, arguments)
        if line is None:  # a fault of the program, whose traceback nobody has kept
            raise
        sys.exit(complain(*line))


def _line(error: BaseException, arguments: Sequence[str]) -> tuple[str, int] | None:
    """What to say of a failure, and its exit code."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, Interrupted | RankError):
        return str(error), error.exit_code
    if isinstance(error, FloatingPointError):
        return str(error), 1
    if isinstance(error, COMPOSITION_ERRORS):
        return explain(error, arguments), 2
    if isinstance(error, OSError):
        return f"Cannot use '{error.filename}' ({error.strerror or error})", 2
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)):
        return f"Out of memory ({error}); lower the batch sizes", 1
    notes = "; ".join(getattr(error, "__notes__", []))
    return (f"Unexpected {type(error).__name__}: {error} ({notes})", 1) if notes else None


def complain(message: str, exit_code: int) -> int:
    """Print one line to stderr and return the exit code."""
    rank = os.environ.get("RANK", "0")
    prefix = "" if rank == "0" else f"[rank {rank}] "
    sys.stderr.write(f"{prefix}Error: {' '.join(message.split())}\n")
    return exit_code


def refuse_unknown_options(arguments: Sequence[str]) -> None:
    """Find what Hydra would pass over in silence, or refuse with a traceback.

    Misspelt options of the optional groups; files of those that are no configuration; groups
    that are removed, or set to something that is no option.

    Raises:
        UserError: For the first of them.
    """
    for argument in arguments:
        group, _, names = argument.partition("=")
        if group in _OPTIONAL:
            _refuse_unknown(group, names.split(","))
        else:
            _refuse_no_option(group, names if "=" in argument else None)


def _refuse_unknown(group: str, names: Sequence[str]) -> None:
    folder = _OPTIONAL[group]
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    for name in names:
        if name not in known:
            raise UserError(_unknown_option(group, name, known))
        _refuse_unusable(folder / f"{name}.yaml")


def _refuse_unusable(path: Path) -> None:
    """Refuse a file that has no keys, or whose defaults Hydra would choke on."""
    try:
        with path.open(encoding="utf-8") as stream:  # which gives errors the file's name
            content = yaml.load(stream, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(explain(error, ())) from error
    if not isinstance(content, dict):
        got = "a list" if isinstance(content, list) else shown(content)
        got = "an empty file" if content is None else got
        raise UserError(_not_a_mapping(_shown(path), got))
    defaults = content.get("defaults", [])
    are_usable = isinstance(defaults, list) and all(
        isinstance(each, str) or (isinstance(each, dict) and len(each) == 1) for each in defaults
    )
    if not are_usable:
        raise UserError(
            f"Wrong value of 'defaults' in '{_shown(path)}': expected a list of options such as "
            f"`- override /dataset: digits`, but got {shown(defaults)}"
        )


def _not_a_mapping(path: str, got: str) -> str:
    return f"Cannot use '{path}': expected keys and values (`key: value`), but got {got}"


def _refuse_no_option(group: str, names: str | None) -> None:
    """Refuse ``~kdci``, ``kdci=null`` and the like; ``names`` is None without ``=``."""
    is_removed = group.startswith("~")
    plain = group.removeprefix("~")
    base = plain.partition("@")[0]
    if not base:
        raise UserError(f"Cannot read the argument '{group}={names or ''}': expected key=value")
    if base not in (_REQUIRED if is_removed else _CHOSEN):
        return
    known = sorted(path.stem for path in (CONF / base).glob("*.yaml"))
    cure = "; for a run without compensation use kdci=none" if base == "kdci" else ""
    if is_removed:
        raise UserError(
            f"Cannot remove the group '{plain}': every run needs one{cure} (one of: "
            f"{', '.join(known)})"
        )
    if names is not None and names not in known and _NO_NAME.fullmatch(names):
        raise UserError(f"{_unknown_option(plain, names, ())}{cure} (one of: {', '.join(known)})")


def _unknown_option(group: str, name: str, known: Sequence[str]) -> str:
    options = f" (one of: {', '.join(known)})" if known else ""
    return f"Unknown option '{group}={name}'{nearest(name, known)}{options}"


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """A complaint about the configuration in one line.

    For a file that cannot be read, its name, line and column; for a wrong name, the nearest.

    Args:
        error: One of :data:`COMPOSITION_ERRORS`.
        overrides: The command line's arguments.
    """
    if isinstance(error, yaml.YAMLError):
        return _explain_yaml(error)
    if isinstance(error, UnicodeDecodeError):
        return _explain_bytes(error)
    text = _text(error)
    option = re.search(
        r"Could not find '([\w@.]+)/([^']+)' Available options in '[^']+': (.*)", text
    )
    if option:
        return _unknown_option(option[1], option[2], option[3].split())
    key = re.search(r"Could not override '([^']+)'|from config\. '([^']+)' does not exist", text)
    if key:
        name = key[1] or key[2]
        return f"Unknown configuration key '{name}'{nearest(name, _known_keys(overrides))}"
    file = re.match(r"In '([^']+)': .*Cannot merge DictConfig with ListConfig", text)
    if file:
        return _not_a_mapping(f"{file[1]}.yaml", "a list")
    if isinstance(error, OverrideParseException):
        return (
            f"Cannot read the argument '{error.override}' ({text}); expected key=value, and "
            "quotes around special characters: 'key=\"a value\"'"
        )
    return text


def _text(error: BaseException) -> str:
    """What Hydra or OmegaConf says, without advice; some say it only in the cause."""
    said = str(error)
    if not said.strip():
        return _text(error.__cause__) if error.__cause__ else type(error).__name__
    text = " ".join(said.split())
    for advice in (" Config search path", " Set the environment variable", " See https://hydra"):
        text = text.split(advice)[0]
    # OmegaConf's own trailer.
    where = re.search(r"^(.*?) full_key: (\S*)(?: object_type=.*)?$", text)
    return f"{where[1]} (in '{where[2]}')" if where and where[2] else text


def _explain_yaml(error: yaml.YAMLError) -> str:
    cure = "mend the file; YAML is indented with spaces"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}"
        what = ", ".join(part for part in (error.context, error.problem) if part)
        return f"Cannot read '{_shown(mark.name)}', {where}: {what}; {cure}"
    if isinstance(error, yaml.reader.ReaderError):
        code = f"character #x{error.character:04x}" if isinstance(error.character, int) else "byte"
        where = _position(Path(error.name), error.position)
        return f"Cannot read '{_shown(error.name)}'{where}: {code}, {error.reason}; {cure}"
    return f"Cannot read a YAML file: {' '.join(str(error).split())}; {cure}"


def _position(path: Path, position: int) -> str:
    """Line and column of a character, where the file can be read again."""
    try:
        before = path.read_bytes().decode()[:position]
    except (OSError, ValueError):
        return ""
    return f", line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def _explain_bytes(error: UnicodeDecodeError) -> str:
    """The error does not say which file it is about: it is the first that is not UTF-8."""
    for path in sorted([*CONF.rglob("*.yaml"), *(ROOT / "experiments").rglob("*.yaml")]):
        try:
            path.read_bytes().decode()
        except UnicodeDecodeError as found:
            line = found.object[: found.start].count(b"\n") + 1
            column = found.start - found.object.rfind(b"\n", 0, found.start)
            return (
                f"Cannot read '{_shown(path)}', line {line}, column {column}: expected UTF-8, but "
                f"got the byte 0x{found.object[found.start]:02x}; save the file as UTF-8"
            )
        except OSError:
            continue
    return f"Cannot read a text file: expected UTF-8, but got other bytes ({error})"


def _shown(path: str | Path) -> str:
    """A path as seen from the program's folder."""
    full = Path(path)
    return str(full.relative_to(ROOT) if full.is_relative_to(ROOT) else full)


def _known_keys(overrides: Sequence[str]) -> list[str]:
    """Dotted keys of the configuration that the group choices alone would make."""
    groups = [o for o in overrides if "=" in o and "." not in o.split("=")[0] and "," not in o]
    for choices in (groups, []):
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                config = compose("config", overrides=choices)
            return list(_flatten(OmegaConf.to_container(config), ""))
        except Exception:  # noqa: BLE001 - only a hint is lost
            continue
    return []


def _flatten(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _flatten(value, f"{prefix}{key}.")
