"""A key that no configuration has: the option, or the other key, that was meant."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from src.common.errors import UserError, nearest, nearest_name
from src.common.package import CONF
from src.common.plugins import refuse_unfit_plugins
from src.config.arguments import folders_of, plugins_of, search_path
from src.config.kind import handed_on, kind_named, kind_of, supplied_by_program
from src.config.node import OWN_KEYS, refuse_foreign_targets, target_of
from src.config.option_files import choosing, content_of

_ABSENT = object()
_SHOWN, _MOST = 3, 6  # of a list of more than six, three
# Words of other programs.
_SYNONYMS = {
    "method": "baseline",
    "data": "dataset",
    "pool": "dataset@pool",
    "model": "student",
    "arch": "student",
    "precision": "trainer.precision",
    "gpus": "trainer.devices",
    "num_gpus": "trainer.devices",
    "device": "trainer.accelerator",
    "output": "paths.outputs",
    "output_dir": "paths.outputs",
    "weights": "teacher.checkpoint",
    "wandb": "logger",
    "max_epochs": "distill.epochs",
    "num_clusters": "kdci.N",
    "clusters": "kdci.N",
    "n_clusters": "kdci.N",
    "K": "kdci.N",
    "size": "dataset.image_size",
    "img_size": "dataset.image_size",
    "data_dir": "dataset.root",
}


def unknown_key(name: str, within: str, overrides: Sequence[str]) -> str:
    """What to say of a key: who has it, or which is like it in meaning or in letters.

    Args:
        name: Dotted key.
        within: The key that was refused for it: one within it, where it is a mapping.
        overrides: The command line's arguments.
    """
    name = within if within.startswith(f"{name}.") else name
    config = _composed(overrides)
    parent, node = _parent(name, config)
    own = node._get_full_key(None)
    complaint, key = f"Unknown configuration key '{name}'", name
    if own != parent and OmegaConf.select(config, own) is node:
        complaint += f": '{parent}' is the interpolation ${{{own}}}"
        parent, key = own, f"{own}{name.removeprefix(parent)}"
    known = [each for each in _flatten(OmegaConf.to_container(config), "") if not _is_own(each)]
    if key in known:
        return f"{complaint}; give '{key}=...'"
    if "_target_" in node:
        within_node = [each for each in known if each.startswith(f"{parent}.")]
        return complaint + _hint_of_node(key, parent, node, within_node, overrides)
    return complaint + (_who_has(key, known, overrides) or nearest(key, known))


def _parent(name: str, config: DictConfig) -> tuple[str, DictConfig]:
    """The key nearest above a name that has keys, and what it holds, interpolations resolved."""
    parent = name.rpartition(".")[0]
    while parent:
        with suppress(OmegaConfBaseException):
            node = OmegaConf.select(config, parent)
            if isinstance(node, DictConfig):
                return parent, node
        parent = parent.rpartition(".")[0]
    return "", config


def _hint_of_node(
    name: str, parent: str, node: DictConfig, known: Sequence[str], overrides: Sequence[str]
) -> str:
    """What to say of a key that the node of a class lacks; other nodes' have another meaning.

    Args:
        name: Dotted key.
        parent: Dotted key of the node.
        node: What is there.
        known: Dotted keys within it.
        overrides: The command line's arguments.
    """
    target, word = node["_target_"], name.removeprefix(f"{parent}.").partition(".")[0]
    taken = _arguments_of(parent, target, overrides)
    if word in taken:  # of one that is there, keys within it were given
        is_there = word in node
        return (
            f"; did you mean '{parent}.{word}'?" if is_there else f"; give '+{parent}.{word}=...'"
        )
    hint = _who_has(name, known, overrides)
    if hint:
        return hint
    words = {each.removeprefix(f"{parent}.").partition(".")[0] for each in known}
    near = nearest_name(word, words.union(taken))
    if near is not None:
        return f"; did you mean '{'' if near in words else '+'}{parent}.{near}'?"
    return f"; {target} does not take it" if taken else ""


def _arguments_of(path: str, target: Any, overrides: Sequence[str]) -> list[str]:
    """What a node's class takes in YAML, with what it hands on to its bases.

    Nothing where the node would be refused, or something of it is to be removed. A class that may
    not run is not imported.
    """
    if any(each.startswith(f"~{path}.") for each in overrides):
        return []
    node = {"_target_": target}
    try:
        plugins = plugins_of(overrides)
        refuse_unfit_plugins(plugins)
        refuse_foreign_targets(path, node, plugins)
        found = target_of(path, node)
        parameters = inspect.signature(found).parameters
        name = "discriminator" if path.endswith(".discriminator") else kind_of(found)
        is_baseline = name == "baseline"
        supplied = supplied_by_program(path, found, parameters, kind_named(name), is_baseline)
        return [key for key in handed_on(found) if key not in supplied]
    except (UserError, ValueError, TypeError):  # which is complained of elsewhere
        return []


def _who_has(name: str, known: Sequence[str], overrides: Sequence[str]) -> str:
    """Options that have a key, else known keys of its meaning or its last word; or nothing."""
    options = _options_with(name, overrides)
    if options:
        shown = options if len(options) <= _MOST else options[:_SHOWN]
        rest = [f"{len(options) - len(shown)} others"] if shown != options else []
        return f"; {' and '.join([*shown, *rest])} would have it"
    parent, _, last = name.rpartition(".")
    synonym = _SYNONYMS.get(last, "")
    is_near = not parent or synonym in known or synonym.rpartition(".")[0] == parent
    alike = [synonym] if synonym and is_near else []
    alike = alike or [key for key in known if key.endswith(f".{last}")]
    return f"; did you mean {' or '.join(repr(key) for key in alike[:_SHOWN])}?" if alike else ""


def _options_with(name: str, overrides: Sequence[str]) -> list[str]:
    """Options of the key's groups that have it: ``baseline=cmi`` for ``baseline.local_scale``.

    Where a group lies within another, as ``kdci/adjustment`` does, those of the outer one that
    choose them: an adjustment that is exchanged alone has the name of another in tables.
    """
    parts, conf = name.split("."), folders_of(overrides)
    found: list[str] = []
    for depth in range(1, len(parts)):
        group, keys = "/".join(parts[:depth]), parts[depth:]
        word = "dataset@pool" if group == "pool" else group
        folders = [folder / word.partition("@")[0] for folder in conf]
        if any((folder / keys[0]).is_dir() for folder in folders):
            continue  # which has the options that count
        for path in sorted(path for folder in folders for path in folder.glob("*.yaml")):
            if _has(path, keys):
                is_chosen = any(each.startswith(f"{word}=") for each in overrides)
                outer = [] if is_chosen else choosing(word, path.stem, conf)
                found += outer or [f"{word}={path.stem}"]
    return found


def _has(path: Path, keys: Sequence[str]) -> bool:
    node = content_of(path)
    for key in keys:
        node = node.get(key, _ABSENT) if isinstance(node, dict) else _ABSENT
    return node is not _ABSENT


def _composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration that the choices of options and of whole nodes alone would make."""
    typed = [each for each in overrides if not each.startswith("-") and "," not in each]
    groups = [each for each in typed if "=" in each and "." not in each.partition("=")[0]]
    path = search_path(folders_of(overrides)[1:], [])
    for choices in ([*groups, *_replacements(overrides), *path], [*groups, *path], path):
        with suppress(Exception), initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides=choices)
    return OmegaConf.create()  # only a hint is lost


def _replacements(overrides: Sequence[str]) -> list[str]:
    """Of understood overrides, those that put one node in the place of another."""
    added = [o for o in overrides if o.startswith("+") and "_target_" in o]
    return [each for o in added for each in (f"~{o[1:].partition('=')[0]}", o)]


def _is_own(key: str) -> bool:
    return key.rpartition(".")[2] in OWN_KEYS


def _flatten(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _flatten(value, f"{prefix}{key}.")
