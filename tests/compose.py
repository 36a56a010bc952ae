"""Composed configurations for tests."""

from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from src.common.package import CONF
from src.config.check import check
from src.config.schema import RunConfig
from src.naming import resolved


@cache
def composed(*overrides: str) -> DictConfig:
    """What Hydra makes of the overrides, its own node included."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def plain(*overrides: str) -> dict[str, Any]:
    """The same, resolved, as plain containers."""
    return resolved(composed(*overrides))


@cache
def checked(baseline: str, dataset: str, budget: str) -> RunConfig:
    """The checked configuration of a pair at some length; the slow part of many tests."""
    return check(plain(f"baseline={baseline}", f"dataset={dataset}", f"budget={budget}"))


def with_options(config: RunConfig, **options: Any) -> RunConfig:
    """The same with other values, which are not checked: ``distill__repeat=1``, ``seed=3``."""
    for key, value in options.items():
        section, _, name = key.rpartition("__")
        if section:
            value = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section or name: value})
    return config
