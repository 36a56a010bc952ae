"""One run from beginning to end, and a record of it whatever happens."""

import logging
import os
import platform
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

from src.common.allocator import keep_freed_memory
from src.common.device import device_of, has_native_bf16
from src.common.distributed import (
    gather_objects,
    joined_ranks,
    on_rank_zero,
    rank,
    world_size,
)
from src.common.errors import FORESEEN, UserError, is_lost_peer, reason_of
from src.common.files import content_hash, remove_leftovers
from src.common.measure import measured
from src.common.signals import Interrupted, interruptible, is_rank
from src.config.node import build
from src.config.schema import RunConfig, Substitution
from src.dataset.contract import Dataset
from src.identity import Identity
from src.naming import RunName
from src.pipeline.dictionary import make_dictionary
from src.pipeline.held_out import agreement
from src.pipeline.identify import identify, plain
from src.pipeline.job import Job, locked, remove
from src.pipeline.log import written_down
from src.pipeline.outcome import write_outcome
from src.pipeline.refusals import refuse_unfit_networks
from src.pipeline.share import of_a_rank
from src.pipeline.software import git_revision, versions
from src.pipeline.stage_a import make_substitution_data
from src.pipeline.stage_b import train_student
from src.pipeline.teacher import prepare_teacher
from src.pipeline.trainer import choose_determinism, forbid_tf32
from src.report.dashboard import finish, start_wandb, tolerated
from src.report.summary import (
    FILE_NAME,
    PREVIOUS,
    Summary,
    is_finished,
    why_not_finished,
    write_summary,
)

if TYPE_CHECKING:
    from wandb import Run

_log = logging.getLogger(__name__)
_EMULATED = (
    "This device emulates bfloat16, which takes many times as long as trainer.precision=32-true; "
    "trainer.precision=auto takes what it has instructions for"
)


def run_teacher(
    config: RunConfig, folder: Path, contents: Mapping[str, str] | None = None
) -> None:
    """Only the first moment: train the teacher, or find it trained, and say where it is."""
    if config.logger.wandb is not None and config.logger.wandb.mode != "disabled":
        _log.warning(
            "Expected logger=wandb with task=distill, but with task=teacher nothing goes to W&B; "
            "where it is trained, its curves go to '%s'",
            folder / "metrics",
        )
    with interruptible(), _begun(config, folder, contents) as (device, identity):
        job = Job(of_a_rank(config), folder, build(config.dataset), device, identity)
        refuse_unfit_networks(job)
        teacher = prepare_teacher(job)
    _log.info("Teacher %s: %.2f%% on the test split", config.teacher.name, teacher.acc1)


def run(
    config: RunConfig,
    folder: Path,
    name: RunName,
    contents: Mapping[str, str] | None = None,
    command: str | None = None,
) -> None:
    """Run all moments; leave ``summary.json`` in ``folder``, also when one fails.

    Args:
        config: The checked configuration.
        folder: The run's folder.
        name: What the run is called.
        contents: Hashes of the data and files that it reads, where they are known.
        command: The command line that asked for it, quoted for a shell, for the record.
    """
    with _begun(config, folder, contents) as (device, identity):
        # Another process may have finished it while this one waited for the lock.
        if on_rank_zero(lambda: is_finished(folder, identity.run)) and not config.force:
            return
        on_rank_zero(lambda: remove_leftovers(folder))
        on_rank_zero(lambda: _set_aside(folder, identity.run))
        summary = _opening(config, name, device, identity)
        summary["command"] = command
        with (
            written_down(folder, command),
            _recorded(summary, folder),
            _mirrored(config, summary, folder) as wandb_run,
        ):
            recipe, protocol = name.recipe or "none, generic lengths", summary["protocol"]
            _log.info(
                "Recipe: %s; budget: %s; protocol: %s; precision: %s",
                recipe,
                name.budget,
                protocol,
                config.trainer.precision,
            )
            dataset: Dataset = build(config.dataset)
            job = Job(of_a_rank(config), folder, dataset, device, identity, wandb_run)
            _moments(job, summary)


@contextmanager
def _begun(
    config: RunConfig, folder: Path, contents: Mapping[str, str] | None
) -> Iterator[tuple[torch.device, Identity]]:
    """All ranks together, about to do the same, in a folder that nobody else uses.

    Raises:
        UserError: If the ranks, each of which torchrun gives words, source and data of its own,
            would do different things.
    """
    device = device_of(config.trainer.accelerator, config.trainer.devices)
    forbid_tf32()
    choose_determinism(config.trainer.deterministic)
    if device.type == "cpu":
        keep_freed_memory()
    if config.trainer.precision == "bf16-mixed" and not has_native_bf16(device.type):
        _log.warning("%s", _EMULATED)
    with joined_ranks(device):
        identity = identify(config, device, contents)
        own = content_hash([plain(config), identity.run, str(folder)])
        if len(set(gather_objects(own))) > 1:
            raise UserError(
                "Expected the same in all ranks, but their options, source, libraries or data "
                "differ; start torchrun with the same words and files on every machine"
            )
        with locked(folder):
            yield device, identity


def _set_aside(folder: Path, run: str) -> None:
    """Keep the result of a finished run that is made again, until the new one replaces it.

    Its live run in W&B, also of one that is damaged, begins anew: curves would hold every epoch
    twice.
    """
    is_whole = is_finished(folder)
    if is_whole or why_not_finished(folder) is not None:
        for live in (folder / "wandb").glob(f"run-*-{run}"):
            shutil.rmtree(live, ignore_errors=True)
    if is_whole:
        os.replace(folder / FILE_NAME, folder / PREVIOUS)


def _moments(job: Job, summary: Summary) -> None:
    costs = job.costs
    refuse_unfit_networks(job)
    with measured(costs["teacher"]):
        teacher = prepare_teacher(job)
    with measured(costs["stage_a"]):
        substitution = make_substitution_data(job, teacher)
    costs["stage_a"].seconds -= costs["dictionary"].seconds  # at its end
    dictionary = make_dictionary(
        substitution.builder, substitution.recording, substitution.dictionary
    )
    with measured(costs["stage_b"]):
        student = train_student(job, teacher, substitution, dictionary)
        summary["held_out"] = agreement(job, substitution.recording, student)
    job.require_unchanged_data(job.folder / "state")
    if rank() == 0:
        write_outcome(job, summary, teacher, substitution, dictionary, student)
        (job.folder / PREVIOUS).unlink(missing_ok=True)
    remove(job.folder / "state")  # only now is its work safe


def _opening(
    config: RunConfig, name: RunName, device: torch.device, identity: Identity
) -> Summary:
    """What is known before the work starts."""
    options = plain(config)
    return {
        "status": "running",
        "error": None,
        "baseline": name.baseline,
        "dataset": name.dataset,
        "teacher": {"name": config.teacher.name, "seed": config.teacher.seed},  # type: ignore[typeddict-item]
        "student": {"name": config.student.name},
        "kdci": {"N": None} | options["kdci"],
        "seed": config.seed,
        "budget": name.budget,
        "recipe": name.recipe,
        "sweep": name.sweep,
        "protocol": protocol_of(config.substitution),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": identity.record(),
        "config": options,
        "versions": versions(),
        "device": _device_name(device),
        "host": platform.node(),
        "git_revision": git_revision(),
        "precision": config.trainer.precision,
        "world_size": world_size(),
    }


def protocol_of(options: Substitution) -> str:
    """Which mode the run has, and which its method was published with, where that is another."""
    published = options.published_mode or options.mode
    return options.mode if options.mode == published else f"{options.mode} instead of {published}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


@contextmanager
def _recorded(summary: Summary, folder: Path) -> Iterator[None]:
    """Write the summary at the start, and again with the reason if the run fails."""
    is_first = rank() == 0
    if is_first:
        write_summary(summary, folder)
    try:
        with interruptible():
            yield
    except BaseException as error:
        if is_rank() and is_lost_peer(error):  # whoever started the ranks records what it was
            raise
        reason = reason_of(error)
        # Lightning's own is of a signal that came before its handlers were replaced.
        is_stopped = isinstance(error, Interrupted | SIGTERMException)
        status = "interrupted" if is_stopped else "failed"
        # Where not even this can be written, the free lock tells that the run is over.
        with suppress(UserError, OSError):
            # W&B comes last, and a result that is written stands whatever becomes of its copy.
            if is_first and not is_finished(folder, summary["identity"]["run"]):
                write_summary({**summary, "status": status, "error": reason}, folder)  # type: ignore[typeddict-item]
            _keep_traceback(error, folder, "" if is_first else f"_rank{rank()}")
        raise


def _keep_traceback(error: BaseException, folder: Path, of: str) -> None:
    """What nobody has foreseen is for whoever mends the program."""
    if isinstance(error, Exception) and not isinstance(error, FORESEEN):
        path = folder / f"traceback{of}.txt"
        path.write_text("".join(traceback.format_exception(error)))
        error.add_note(f"traceback in '{path}'")


@contextmanager
def _mirrored(config: RunConfig, summary: Summary, folder: Path) -> "Iterator[Run | None]":
    """A W&B run that ends with an error code when the job fails; None without W&B."""
    options = config.logger.wandb
    if options is None:
        yield None
        return
    run_ = start_wandb(
        summary,
        folder,
        project=options.project,
        mode=options.mode,
        tags=options.tags,
        entity=options.entity,
        goes_on=not config.force,
    )
    exit_code = 1
    try:
        yield run_
        exit_code = 0
    finally:
        with tolerated(run_):
            finish(run_, exit_code)
