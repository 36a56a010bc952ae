"""How one run is started, and its result shown."""

import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from src.common.errors import RankError, UserError
from src.common.files import atomic_write, lock, remove_spent_state
from src.common.gpus import own_gpus
from src.common.memory import recall
from src.common.package import CONF
from src.common.plugins import conf_of
from src.common.signals import Interrupted, interruptible, is_rank, speaks
from src.config.check import check
from src.config.flags import own_folders
from src.config.schema import RunConfig
from src.naming import RunName, memory_of, resolved
from src.ranks import handed_down, refuse_unfit_ranks, start_ranks
from src.report.console import console
from src.report.summary import (
    FILE_NAME,
    is_finished,
    read_summary,
    why_not_finished,
    write_summary,
)
from src.report.table import run_table

_log = logging.getLogger(__name__)
TOLD = "KDCI_POINT"
"""Names the file in which a point of a sweep says where its run lies."""


def run_single(config: DictConfig, overrides: Sequence[str]) -> None:
    """Show the result of a finished run; else check the configuration and run it.

    A finished run is found by what was remembered of its identity; then neither torch nor any
    data is loaded.
    """
    plain, choices = resolved(config), dict(HydraConfig.get().runtime.choices)
    memory = memory_of(plain, choices)
    known = None if is_rank() or memory is None else recall(memory)
    if known is not None and _is_shown(plain, Path(known["folder"])):
        return
    with _own_gpus(plain):
        _check_and_run(plain, choices, overrides, memory)


def _own_gpus(plain: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Let a point of a sweep work where no other does.

    It comes before the check, in which torch's optimizers ask for CUDA already. A run that is
    started alone sees all GPUs: whoever starts it says which, and does not expect it to wait.
    """
    trainer = plain.get("trainer")
    options = trainer if isinstance(trainer, Mapping) else {}
    devices = options.get("devices")
    is_point = TOLD in os.environ and not is_rank()
    if not is_point or options.get("accelerator") == "cpu" or not isinstance(devices, int):
        return nullcontext()
    return own_gpus(devices)


def _check_and_run(
    plain: dict[str, Any],
    choices: Mapping[str, Any],
    overrides: Sequence[str],
    memory: Path | None,
) -> None:
    checked = check(plain)
    refuse_unfit_ranks(checked.trainer)
    # Brings torch and Lightning, which a run that is only shown is spared.
    from src.pipeline.identify import find

    conf = (CONF, *conf_of(checked.plugins), *own_folders(overrides))
    name = RunName(checked.task, choices, os.environ.get("KDCI_SWEEP"), conf)
    name.require_budget(checked.budget)
    name.require_kdci(plain["kdci"]["name"])
    handed = handed_down()
    found, typed = handed or (find(checked, name, memory), _typed())
    folder = Path(found["folder"])
    if handed:
        _refuse_other(checked, folder, found["contents"])
    if not is_rank() and _is_shown(plain, folder):
        return
    _run(checked, overrides, folder, found, name, typed)
    if speaks() and checked.task == "distill":
        _show(plain, folder)


def _refuse_other(checked: RunConfig, folder: Path, contents: Mapping[str, str]) -> None:
    """Refuse a rank whose words make another run than that whose folder it was given.

    Raises:
        UserError: If they do.
    """
    from src.common.device import device_of
    from src.pipeline.identify import identify

    device = device_of(checked.trainer.accelerator, checked.trainer.devices)
    identity = identify(checked, device, contents)
    own = identity.run if checked.task == "distill" else identity.teacher[:12]
    if own != folder.name:
        raise UserError(
            f"Expected every rank to do the run of '{folder}', but its configuration is that of "
            f"'{own}'; use one that is composed in all processes alike"
        )


def _run(
    checked: RunConfig,
    overrides: Sequence[str],
    folder: Path,
    found: Any,
    name: RunName,
    typed: str,
) -> None:
    from src.pipeline.run import run, run_teacher

    if checked.trainer.devices > 1 and not is_rank():
        with _failure_recorded(folder):
            start_ranks(checked.trainer.devices, overrides, folder, found, typed)
    elif checked.task == "teacher":
        run_teacher(checked, folder, found["contents"])
    else:
        run(checked, folder, name, found["contents"], typed)


def _typed() -> str:
    """The command line of this process, quoted; where its Python lies matters to nobody."""
    program, *arguments = sys.orig_argv
    return shlex.join([Path(program).name, *arguments])


def _is_shown(plain: Any, folder: Path) -> bool:
    """Show a finished run that may be shown; tell a sweep where its point lies in any case."""
    if TOLD in os.environ:
        with atomic_write(Path(os.environ[TOLD])) as temporary:
            temporary.write_text(str(folder))
    if plain["task"] != "distill" or plain["force"] is not False:
        return False
    damage = why_not_finished(folder, folder.name)
    if damage is not None:
        _log.warning("A finished run is damaged: %s; it is made again", damage)
    if damage is not None or not is_finished(folder, folder.name):
        return False
    remove_spent_state(folder)
    _show(plain, folder)
    return True


@contextmanager
def _failure_recorded(folder: Path) -> Iterator[None]:
    """Ranks that were stopped cannot say so; correct the summary that they left as running."""
    try:
        with interruptible():
            yield
    except (RankError, Interrupted) as error:
        status = "interrupted" if isinstance(error, Interrupted) else "failed"
        _correct(folder, status, str(error))
        raise


def _correct(folder: Path, status: str, reason: str) -> None:
    # There may be none yet, or it is of another process, which goes on.
    with suppress(UserError), lock(folder, wait=False):
        summary: Any = read_summary(folder / FILE_NAME)
        if summary["status"] == "running":
            del summary["folder"]
            write_summary(summary | {"status": status, "error": reason}, folder)


def _mention_unsent(asked: Any, summary: Any, folder: Path) -> None:
    """Where a finished run was not logged into this project of W&B, say how to send it there."""
    # Brings torch.
    from src.report.dashboard import default_entity, default_mode
    from src.report.mirror import Target

    mode: Any = asked["mode"] or default_mode()
    entity = asked["entity"] or default_entity()
    if mode == "disabled" or Target(asked["project"], mode, entity).has(summary):
        return
    words = ["python", "-m", "src.report", str(folder), "--wandb", asked["project"]]
    words += ["--wandb-mode", "offline"] if mode == "offline" else []
    team = f"WANDB_ENTITY={shlex.quote(entity)} " if entity else ""
    _log.warning(
        "The run had finished without this project of W&B, and logger=wandb does not send it "
        "there afterwards; `%s%s` does so, once",
        team,
        shlex.join(words),
    )


def _show(plain: Any, folder: Path) -> None:
    """Print the table of a finished run; a line of it where a sweep prints one for all."""
    summary: Any = read_summary(folder / FILE_NAME)
    if plain["fid"]["weights"] is not None and summary["config"].get("fid") != plain["fid"]:
        _log.warning(
            "The run had finished without these fid.weights and fid.images and was not looked "
            "into again; force=true runs it again"
        )
    if plain["logger"]["wandb"] is not None:
        _mention_unsent(plain["logger"]["wandb"], summary, folder)
    if "KDCI_SWEEP" in os.environ:
        held_out = summary.get("held_out")
        agreement = ""
        if held_out:
            agreement = f", agreement {held_out['agreement']:.2f}%"
            agreement += f" (one class for all: {held_out['one_class']:.2f}%)"
        _log.info("Finished with %.2f%%%s in %s", summary["acc1"]["last"], agreement, folder)
    else:
        console().print(run_table(summary, folder), crop=False)
