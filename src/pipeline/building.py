"""From a ``_target_`` node to the object that it names."""

from typing import Any

from hydra.utils import instantiate

from src.signature import Node


def build(node: Node, **supplied: Any) -> Any:
    """Instantiate a ``_target_`` node with what the program supplies.

    Through a partial, so that Hydra does not turn the supplied objects into configs.
    """
    return instantiate({**node, "_partial_": True}, _convert_="all")(**supplied)


def build_partial(node: Node | None) -> Any:
    """A partial of a ``_target_`` node, for what is built from objects made later."""
    return None if node is None else instantiate({**node, "_partial_": True}, _convert_="all")
