"""What Hydra, OmegaConf and the YAML reader say of a configuration, in one line."""

import re
from collections.abc import Sequence
from traceback import walk_tb

import yaml  # type: ignore[import-untyped]
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException, ValidationError

from src.common.errors import in_one_line, nearest
from src.config.arguments import files_of
from src.config.option_files import (
    BASE,
    explain_bytes,
    explain_header,
    explain_yaml,
    not_a_mapping,
)
from src.config.unknown_key import unknown_key
from src.config.value import shown

COMPOSITION_ERRORS: tuple[type[Exception], ...] = (
    HydraException,
    OmegaConfBaseException,
    yaml.YAMLError,
    UnicodeDecodeError,
)
"""What a configuration that cannot be composed raises; :func:`explain` puts it in one line."""

# Of a header that it cannot split Hydra says no more, and nothing of the file.
_HEADER_ERROR = re.compile("Expected header format: |Too many components in '@")
# What a setting's budget is found by.
_EARLY = re.compile(r"resolving interpolation '\$\{(dataset|baseline)\b")
# Instead of an option's name.
_WHERE_PATHS_GO = {
    "dataset": "dataset=image_folder dataset.root",
    "teacher": "teacher=NETWORK teacher.checkpoint",
}


def is_about_composition(error: Exception) -> bool:
    """Whether :func:`explain` knows it."""
    is_header = type(error) is ValueError and _HEADER_ERROR.match(str(error))
    return bool(is_header) or isinstance(error, COMPOSITION_ERRORS) or bool(_circle(error))


def _circle(error: Exception) -> str | None:
    """The option whose defaults lead back to it; Hydra follows them for ever, and names none."""
    above = set[str]()
    for frame, _ in walk_tb(error.__traceback__ if isinstance(error, RecursionError) else None):
        if frame.f_code.co_name == "_create_defaults_tree_impl":
            option = frame.f_locals["root"].node.get_config_path()
            if option in above:
                return str(option)
            above.add(option)
    return None


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """A complaint about the configuration in one line.

    For a file that cannot be read, its name, line and column; for a wrong name, the nearest.

    Args:
        error: One of which :func:`is_about_composition` holds.
        overrides: The command line's arguments.
    """
    of_file = _explain_file(error, overrides)
    if of_file:
        return of_file
    text = _text(error)
    option = re.search(r"Could not find '(.+)' Available options in '([^']+)': (.*)", text)
    if option:
        name = option[1].removeprefix(f"{option[2]}/")
        return _no_option(option[2], name, option[3].split(), overrides)
    key = re.search(r"Could not override '([^']+)'|from config\. '([^']+)' does not exist", text)
    if key:
        return unknown_key(key[1] or key[2], _key_of(error.__cause__), overrides)
    file = re.match(r"In '([^']+)': .*Cannot merge DictConfig with ListConfig", text)
    if file:
        return not_a_mapping(f"{file[1]}.yaml", "a list")
    if isinstance(error, OverrideParseException):
        return (
            f"Cannot read the argument '{error.override}' ({text}); expected key=value, and "
            "quotes around special characters: 'key=\"a value\"'"
        )
    return _early_setting(text, overrides) or _other_kind(error, text) or text


def _explain_file(error: Exception, overrides: Sequence[str]) -> str | None:
    """What to say of an option file that cannot be read, or builds on itself."""
    if isinstance(error, yaml.YAMLError):
        return explain_yaml(error)
    if isinstance(error, UnicodeDecodeError):
        return explain_bytes(error, files_of(overrides))
    if _HEADER_ERROR.match(str(error)):
        return explain_header(error, files_of(overrides))
    circle = _circle(error)
    return circle and (
        f"Cannot compose '{circle}': its defaults lead back to it; expected each option to build "
        f"on others only; mend the defaults of '{circle}.yaml', or of one that it builds on"
    )


def _early_setting(text: str, overrides: Sequence[str]) -> str | None:
    setting = next((each for each in overrides if each.startswith("setting=")), None)
    if setting is None or "${" in setting or not _EARLY.search(text):
        return None
    return (
        f"Cannot compose '{setting}', whose budget is looked for before the data set is known; "
        "write setting=NAME, in a sweep setting=NAME,NAME, or give teacher=, student= and budget= "
        "themselves"
    )


def _other_kind(error: Exception, text: str) -> str | None:
    """What to say of a list in the place of keys and values, or the other way round."""
    merged = re.fullmatch(r"Error merging override (\S+?)=(.*)", text)
    if merged is None:
        return None
    if isinstance(error.__cause__, ValidationError):  # of a single value of Hydra's own
        return f"Wrong value of '{merged[1]}': {str(error.__cause__).splitlines()[0]}"
    expected = "a list" if "with ListConfig" in str(error.__cause__) else "keys and values"
    return f"Wrong value of '{merged[1]}': expected {expected}, but got {merged[2]}"


def _key_of(cause: BaseException | None) -> str:
    """The key that an override was refused for: one within it, where it is a mapping."""
    return str(getattr(cause, "full_key", None) or "")


def unknown_option(group: str, name: str, known: Sequence[str]) -> str:
    """What to say of a name that no option of a group has."""
    known = [each for each in known if each != BASE]
    options = f" (one of: {', '.join(known)})" if known else ""
    hint = nearest(name, known)
    if "/" in name and group in _WHERE_PATHS_GO:
        hint = f"; a path goes elsewhere: {_WHERE_PATHS_GO[group]}={shown(name)}"
    return f"Unknown option '{group}={name}'{hint}{options}"


def _no_option(group: str, name: str, known: Sequence[str], overrides: Sequence[str]) -> str:
    """What to say of an option that is not there; a setting follows the data set's name."""
    if group != "setting" or any(each.startswith("setting=") for each in overrides):
        return unknown_option(group, name, known)
    return (
        f"Cannot use 'dataset={name}', which has no setting (one of: {', '.join(known)}); a pool "
        f"is given as dataset@pool={name}, a data set of your own with 'conf/setting/{name}.yaml' "
        "or another's setting=NAME"
    )


def _text(error: BaseException) -> str:
    """What Hydra or OmegaConf says, without advice; some say it only in the cause."""
    said = str(error)
    if not said.strip():
        return _text(error.__cause__) if error.__cause__ else type(error).__name__
    text = in_one_line(said)
    for advice in (" Config search path", " Set the environment variable", " See https://hydra"):
        text = text.split(advice)[0]
    # OmegaConf's own trailer.
    where = re.search(r"^(.*?) full_key: (\S*)(?: object_type=.*)?$", text)
    return f"{where[1]} (in '{where[2]}')" if where and where[2] else text
