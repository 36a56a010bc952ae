"""What runs and sweeps are called."""

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from src.common.errors import UserError
from src.common.files import content_hash
from src.common.package import CONF, SOURCE
from src.common.plugins import folders_of
from src.common.provenance import library_versions
from src.config.check import VANILLA

_PAPER, _GENERIC = "paper", "generic"
_TABLES = "tables"  # values have been taken out of it; the rest belongs to other networks


def resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, without Hydra's node and recipes' look-up tables."""
    keys = [str(key) for key in config if key != "hydra"]
    plain = OmegaConf.to_container(
        OmegaConf.masked_copy(config, keys), resolve=True, throw_on_missing=True
    )
    without_tables: dict[str, Any] = _at_home(plain)
    without_tables.pop(_TABLES, None)
    return without_tables


def _at_home(value: Any) -> Any:
    """The same with ``~`` expanded in every text that starts with it."""
    if isinstance(value, dict):
        return {key: _at_home(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_at_home(inner) for inner in value]
    is_path = isinstance(value, str) and value.split("/")[0] == "~"
    return os.path.expanduser(value) if is_path else value


@dataclass(frozen=True)
class RunName:
    """What a run is called.

    Attributes:
        task: What is done.
        choices: The chosen options of all groups.
        sweep: The sweep that it is a point of, if any.
        conf: Folders in which options are found.
    """

    task: str
    choices: Mapping[str, Any]
    sweep: str | None = None
    conf: Sequence[Path] = (CONF,)

    @property
    def dataset(self) -> str:
        """Name of the data set's option."""
        return str(self.choices["dataset"])

    @property
    def baseline(self) -> str:
        """Name of the baseline's option."""
        return str(self.choices["baseline"])

    @property
    def recipe(self) -> str | None:
        """Name of the recipe; None where the baseline has none for the data set."""
        name = self.choices.get("recipe")  # also of one that is optional and not there
        files = [folder / "recipe" / f"{name}.yaml" for folder in self.conf]
        return str(name) if any(path.is_file() for path in files) else None

    @property
    def budget(self) -> str:
        """Name of the budget's option; ``generic`` for lengths that no recipe has."""
        chosen = str(self.choices["budget"])
        return _GENERIC if chosen == _PAPER and self.recipe is None else chosen

    def require_budget(self, stated: str) -> None:
        """Refuse a budget that calls itself something else than its file is called.

        Raises:
            UserError: If ``stated`` is not the name of the chosen option.
        """
        chosen = str(self.choices["budget"])
        if stated != chosen:
            raise UserError(
                f"Expected 'budget' in 'conf/budget/{chosen}.yaml' to be '{chosen}', as the file "
                f"is called, but got '{stated}'; add the line `budget: {chosen}` to it"
            )

    def require_kdci(self, stated: str) -> None:
        """Refuse ``kdci=none`` that would be compensated, and another option that would not.

        Folders are called by the option, but ``kdci.name`` says what is done.

        Raises:
            UserError: If only one of the option and ``stated`` is ``none``.
        """
        chosen = str(self.choices["kdci"])
        if (chosen == VANILLA) != (stated == VANILLA):
            raise UserError(
                f"Expected kdci.name={VANILLA} with kdci={VANILLA}, and with it alone, but got "
                f"kdci={chosen} with kdci.name={stated}; leave kdci.name out, in a sweep over "
                "both too, or choose the other option"
            )

    @property
    def folder(self) -> str:
        """Folder of runs of the same chosen options; their identities tell them apart."""
        groups = ("dataset", "baseline", "kdci")
        if self.task == "teacher":
            return f"teacher_{self.dataset}_{self.choices['teacher']}"
        return "_".join(str(self.choices[group]) for group in groups)


def memory_of(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> Path | None:
    """File in which the identity of a configuration is remembered; None if it has no cache.

    What is remembered holds for this machine, this copy of the program and these libraries only.
    """
    paths = plain.get("paths")
    cache = paths.get("cache") if isinstance(paths, Mapping) else None
    if not isinstance(cache, str):  # which the check of the configuration will refuse
        return None
    # Machines of one name, such as containers, may have processors of unlike precision=auto, and
    # GPUs or none.
    here: list[object] = [platform.node(), _processor(), os.getcwd()]
    here.append(str(SOURCE))  # another clone has files of its own, which it may rest on
    here += [os.environ.get("CUDA_VISIBLE_DEVICES"), _gpus()]
    here += [str(folder) for name in plain["plugins"] for folder in folders_of(name)]
    key = content_hash([plain, choices, here, library_versions()])
    return Path(cache) / "identity" / f"{key[:20]}.json"


def _processor() -> str | None:
    """The instructions that the first processor has, as Linux lists them; None elsewhere."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next((line for line in lines if line.startswith(("flags", "Features"))), None)
    except OSError:
        return None


def _gpus() -> list[str]:
    """What tells of NVIDIA's GPUs without loading torch: their device files and the driver."""
    driver = Path("/proc/driver/nvidia/version")
    with suppress(OSError):
        return [*sorted(glob("/dev/nvidia[0-9]*")), driver.read_text(encoding="utf-8")]
    return []


def name_sweep(asked: Sequence[str]) -> None:
    """Name a sweep by what is asked for and where, so that the same sweep again finds its folder.

    The name travels as an environment variable, so that launchers and points inherit it.

    Args:
        asked: What makes it another sweep, in the order in which points are numbered.
    """
    os.environ["KDCI_SWEEP"] = content_hash([os.getcwd(), *asked])[:12]


def require_sweep() -> None:
    """Refuse a sweep that has no name, since nobody has asked for one in words.

    Raises:
        UserError: If a configuration file sets Hydra's mode.
    """
    if "KDCI_SWEEP" not in os.environ:
        raise UserError(
            "Refused 'hydra.mode' of a configuration: expected --multirun on the command line, "
            "where a sweep is asked for; add it, or leave hydra.mode out"
        )
