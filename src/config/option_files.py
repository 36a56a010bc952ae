"""Option files as they lie on disk: which there are, and what is wrong with one, in one line."""

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from src.common.errors import in_one_line
from src.common.package import CONF, ROOT
from src.config.value import shown

SEARCH_PATH = "hydra.searchpath"
PARAMS = "hydra.sweeper.params"
"""The points of an experiment's sweep."""
BASE = "base"
"""What the others of a group build on; no option itself."""
SWEEPS = "experiments"
OPTIONAL = {"recipe": CONF / "recipe", SWEEPS: ROOT / SWEEPS}
"""Groups whose option Hydra may miss without a word, and where ours lie."""
_HEADER_LINE = re.compile(r"#\s*@")
_HEADER = "# @package _global_"


def places_of(group: str, more: Sequence[Path] = ()) -> list[Path]:
    """Folders of a group's options: ours, and those within other folders of options."""
    return [OPTIONAL.get(group, CONF / group), *(folder / group for folder in more)]


def names_in(folders: Iterable[Path]) -> list[str]:
    """What can be chosen of a group whose files lie there."""
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def content_of(path: Path) -> Any:
    """What a file holds, by the reader that Hydra has; None where it is none that can be read.

    What is wrong with it is said where it is chosen.
    """
    if not path.is_file():  # a pipe or a device would never end
        return None
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except Exception:  # noqa: BLE001 - of somebody else's readers, for somebody else's file
        return None


def choosing(group: str, name: str, folders: Sequence[Path]) -> list[str]:
    """Options whose own defaults choose one of a group within theirs.

    Args:
        group: The group within, ``kdci/adjustment``.
        name: Its option, ``compensation``.
        folders: Folders of options.

    Returns:
        As on the command line, ``kdci=backdoor``.
    """
    outer, _, inner = group.rpartition("/")
    choices = {inner: name}, {f"override {inner}": name}
    found = []
    for path in (path for folder in folders for path in sorted((folder / outer).glob("*.yaml"))):
        content = content_of(path)
        defaults = content.get("defaults") if isinstance(content, dict) else None
        if isinstance(defaults, list) and any(each in choices for each in defaults):
            found.append(f"{outer}={path.stem}")
    return found


def explain_yaml(error: yaml.YAMLError) -> str:
    """What the YAML reader says of a file, with line and column where it knows them."""
    cure = "mend the file; YAML is indented with spaces"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}"
        what = ", ".join(part for part in (error.context, error.problem) if part)
        return f"Cannot read '{in_program(mark.name)}', {where}: {what}; {cure}"
    if isinstance(error, yaml.reader.ReaderError):
        code = f"character #x{error.character:04x}" if isinstance(error.character, int) else "byte"
        where = _position(Path(error.name), error.position)
        return f"Cannot read '{in_program(error.name)}'{where}: {code}, {error.reason}; {cure}"
    return f"Cannot read a YAML file: {in_one_line(error)}; {cure}"


def _position(path: Path, position: int) -> str:
    """Line and column of a character, where the file can be read again."""
    try:
        before = path.read_bytes().decode()[:position]
    except (OSError, ValueError):
        return ""
    return f", line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}"


def explain_bytes(error: UnicodeDecodeError, files: Sequence[Path]) -> str:
    """The first of ``files`` that is not UTF-8, and where; the error does not say which it is."""
    for path in files:
        try:
            path.read_bytes().decode()
        except UnicodeDecodeError as found:
            line = found.object[: found.start].count(b"\n") + 1
            column = found.start - found.object.rfind(b"\n", 0, found.start)
            return (
                f"Cannot read '{in_program(path)}', line {line}, column {column}: expected UTF-8, "
                f"but got the byte 0x{found.object[found.start]:02x}; save the file as UTF-8"
            )
        except OSError:
            continue
    return f"Cannot read a text file: expected UTF-8, but got other bytes ({error})"


def explain_header(error: Exception, files: Sequence[Path]) -> str:
    """The first of ``files`` whose header is wrong; the error does not say which it is."""
    for path in files:
        try:
            fault = header_fault(path)
        except (OSError, ValueError):
            continue
        if fault:
            return fault
    return f"Wrong header of a configuration file: {error}; expected `{_HEADER}`"


def headers(path: Path) -> list[str]:
    """The lines ``# @...`` that Hydra reads: those above all others."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return list(takewhile(_HEADER_LINE.match, filter(None, lines)))


def header_fault(path: Path) -> str | None:
    """What is wrong with the headers of a file, if Hydra cannot split one into key and value."""
    for line in headers(path):
        if len([part for part in line.lstrip("#").strip().split(" ") if part]) != 2:
            return wrong_header(path, shown(line))
    return None


def wrong_header(path: Path, got: str) -> str:
    """What to say of a header."""
    return f"Wrong header of '{in_program(path)}': expected `{_HEADER}` on top, but got {got}"


def in_program(path: str | Path) -> str:
    """A path as seen from the program's folder."""
    full = Path(path)
    return str(full.relative_to(ROOT) if full.is_relative_to(ROOT) else full)


def no_regular_file(path: Path) -> str:
    """What to say of a pipe or a device, which may never end, or not say the same again."""
    return f"Cannot read '{in_program(path)}': it is no regular file; remove it"


def not_a_mapping(path: str, got: str) -> str:
    """What to say of a file without keys."""
    return f"Cannot use '{path}': expected keys and values (`key: value`), but got {got}"
