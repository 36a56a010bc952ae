"""From a checked configuration to the identities of what it makes."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from src.common.device import device_of
from src.common.errors import UserError
from src.common.memory import remember
from src.common.provenance import source_files
from src.config.check import VANILLA
from src.config.schema import RunConfig
from src.identity import Identity, code_of
from src.inside.inception import Inception
from src.naming import RunName
from src.pipeline.content import contents_of, sources_of, traits_of
from src.pipeline.refusals import refuse_misfit
from src.report.summary import FILE_NAME, Summary, read_summary

_log = logging.getLogger(__name__)


def find(config: RunConfig, name: RunName, memory: Path | None) -> dict[str, Any]:
    """Where a run lies, and the hashes of what it reads, remembered from then on.

    Args:
        config: The checked configuration.
        name: What the run is called.
        memory: File that remembers it; None remembers nothing.

    Raises:
        UserError: If there are too few devices, the checkpoint or the weights of the Fréchet
            Inception distance do not fit, or data is missing.
    """
    device = device_of(config.trainer.accelerator, config.trainer.devices)
    computes = [device.type, config.trainer.precision]

    def compute() -> dict[str, Any]:
        refuse_misfit(config)
        if config.task == "distill" and config.fid.weights is not None:
            Inception(Path(config.fid.weights))  # not after hours of work
        identity = identify(config, device)
        own = identity.run if config.task == "distill" else identity.teacher[:12]
        folder = Path(config.paths.outputs, name.folder, own)
        mention_others(folder, identity)
        return {"folder": str(folder), "contents": dict(identity.contents), "on": computes}

    def rests_on() -> list[str | Path]:
        files = source_files(config.plugins)
        # A folder stands for its names: a new file can take the place of another module.
        folders = sorted({path.parent for path in files})
        return [*files, *folders, *sources_of(config)]

    found: dict[str, Any] = compute() if memory is None else remember(memory, rests_on, compute)
    if memory is not None and found["on"] != computes:  # a driver that has come or gone since
        memory.unlink(missing_ok=True)
        found = remember(memory, rests_on, compute)
    return found


def identify(
    config: RunConfig, device: torch.device, contents: Mapping[str, str] | None = None
) -> Identity:
    """The identities of a run.

    Args:
        config: The checked configuration.
        device: What computes.
        contents: Hashes of data and files, where they are known; None reads them.
    """
    options, traits = plain(config), traits_of(config)
    return Identity(
        config=options,
        traits=traits,
        device=device.type,
        contents=contents_of(config) if contents is None else contents,
        code=code_of(options, traits),
    )


def plain(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain containers; without compensation it has only a name."""
    dumped = config.model_dump()
    return dumped | {"kdci": dumped["kdci"] or {"name": VANILLA}}


def mention_others(folder: Path, identity: Identity) -> None:
    """Say where finished runs of the same settings, but of other code or data, lie."""
    if (folder / FILE_NAME).exists():
        return
    for summary in _finished(sorted(folder.parent.glob(f"*/{FILE_NAME}"))):
        theirs = summary["identity"]
        if theirs["settings"] == identity.record()["settings"]:
            differing = _differing(theirs, identity.record())
            _log.info(
                "A finished run of the same settings but other %s stays in %s",
                " and ".join(differing) or "settings",
                summary["folder"],
            )


def _finished(paths: Iterable[Path]) -> list[Summary]:
    found = []
    for path in paths:
        try:
            summary = read_summary(path)
        except UserError:
            continue
        if summary["status"] == "finished":
            found.append(summary)
    return found


def _differing(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    words = {"contents": "data", "code": "code"}
    return [word for part, word in words.items() if theirs[part] != ours[part]]
