"""One line for everything that the user can mend."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.common.errors import RankError, UserError, nearest
from src.naming import CONF, ROOT

# Groups whose option Hydra may miss without a word.
_OPTIONAL = {"recipe": CONF / "recipe", "experiments": ROOT / "experiments"}


@contextmanager
def complaints() -> Iterator[None]:
    """Turn failures that the user can mend into one line and an exit code.

    ``SystemExit``, because Hydra adds lines of its own to every other exception.
    """
    try:
        yield
    except UserError as error:
        sys.exit(complain(str(error), 2))
    except FloatingPointError as error:
        sys.exit(complain(str(error), 1))
    except RankError as error:
        sys.exit(complain(str(error), error.exit_code))
    except OmegaConfBaseException as error:
        sys.exit(complain(explain(error, ()), 2))


def complain(message: str, exit_code: int) -> int:
    """Print one line to stderr and return the exit code."""
    rank = os.environ.get("RANK", "0")
    prefix = "" if rank == "0" else f"[rank {rank}] "
    sys.stderr.write(f"{prefix}Error: {' '.join(message.split())}\n")
    return exit_code


def refuse_unknown_options(arguments: Sequence[str]) -> None:
    """Find misspelt options of the optional groups, which Hydra would pass over in silence.

    Raises:
        UserError: If there is no such option.
    """
    for argument in arguments:
        group, _, names = argument.partition("=")
        if group not in _OPTIONAL:
            continue
        known = sorted(path.stem for path in _OPTIONAL[group].glob("*.yaml"))
        for name in names.split(","):
            if name not in known:
                raise UserError(_unknown_option(group, name, known))


def _unknown_option(group: str, name: str, known: Sequence[str]) -> str:
    return f"Unknown option '{group}={name}'{nearest(name, known)} (one of: {', '.join(known)})"


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's complaint in one line, with the nearest name where a name was wrong."""
    text = " ".join(str(error).split())
    text = text.split(" Config search path")[0].split(" Set the environment variable")[0]
    option = re.search(
        r"Could not find '([\w@.]+)/([^']+)' Available options in '[^']+': (.*)", text
    )
    if option:
        return _unknown_option(option[1], option[2], option[3].split())
    key = re.search(r"Could not override '([^']+)'", text)
    if key:
        return f"Unknown configuration key '{key[1]}'{nearest(key[1], _known_keys(overrides))}"
    return text


def _known_keys(overrides: Sequence[str]) -> list[str]:
    """Dotted keys of the configuration that the group choices alone would make."""
    groups = [o for o in overrides if "=" in o and "." not in o.split("=")[0] and "," not in o]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose("config", overrides=groups)
        except Exception:  # noqa: BLE001 - only a hint is lost
            config = compose("config")
    return list(_flatten(OmegaConf.to_container(config), ""))


def _flatten(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _flatten(value, f"{prefix}{key}.")
