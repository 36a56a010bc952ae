"""One run from beginning to end, and a record of it whatever happens."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from src.common.device import device_of
from src.common.distributed import joined_ranks, on_rank_zero, rank, world_size
from src.common.measure import measured
from src.dataset.contract import Dataset
from src.pipeline.job import Job, build, locked
from src.pipeline.outcome import write_outcome
from src.pipeline.stage_a import make_substitution_data
from src.pipeline.stage_b import train_student
from src.pipeline.teacher import prepare_teacher
from src.report.dashboard import finish, start_wandb
from src.report.summary import Summary, git_revision, is_finished, versions, write_summary
from src.schema import VANILLA, RunConfig

if TYPE_CHECKING:
    from wandb import Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunName:
    """What a run is called: chosen options, content hash, and the sweep it belongs to."""

    dataset: str
    baseline: str
    config_hash: str
    sweep: str | None


def run_teacher(config: RunConfig, folder: Path) -> None:
    """Only the first moment: train the teacher, or find it trained, and say where it is."""
    device = device_of(config.trainer.accelerator, config.trainer.devices)
    with joined_ranks(device), locked(folder):
        job = Job(config, folder, build(config.dataset), device)
        teacher = prepare_teacher(job)
    _log.info("Teacher %s: %.2f%% on the test split", config.teacher.name, teacher.acc1)


def run(config: RunConfig, folder: Path, name: RunName) -> None:
    """Run all moments; leave ``summary.json`` in ``folder``, also when one fails."""
    device = device_of(config.trainer.accelerator, config.trainer.devices)
    with joined_ranks(device), locked(folder):
        if on_rank_zero(lambda: is_finished(folder)) and not config.force:
            return
        if config.force:
            on_rank_zero(lambda: shutil.rmtree(folder / "state", ignore_errors=True))
        summary = _opening(config, name, device)
        with _recorded(summary, folder), _mirrored(config, name, folder) as wandb_run:
            dataset: Dataset = build(config.dataset)
            job = Job(config, folder, dataset, device, wandb_run)
            _moments(job, summary)


def _moments(job: Job, summary: Summary) -> None:
    costs = job.costs
    with measured(costs["teacher"]):
        teacher = prepare_teacher(job)
    with measured(costs["stage_a"]):
        substitution = make_substitution_data(job, teacher)
    costs["stage_a"].seconds -= costs["dictionary"].seconds
    before = costs["dictionary"].seconds
    with measured(costs["stage_b"]):
        student = train_student(job, teacher, substitution)
    costs["stage_b"].seconds -= costs["dictionary"].seconds - before
    if rank() == 0:
        write_outcome(job, summary, teacher, substitution, student)


def _opening(config: RunConfig, name: RunName, device: torch.device) -> Summary:
    """What is known before the work starts."""
    plain = config.model_dump()
    plain["kdci"] = plain["kdci"] or {"name": VANILLA, "N": None}
    return {
        "status": "running",
        "error": None,
        "baseline": name.baseline,
        "dataset": name.dataset,
        "teacher": {"name": config.teacher.name, "seed": config.teacher.seed},  # type: ignore[typeddict-item]
        "student": {"name": config.student.name},
        "kdci": plain["kdci"],
        "seed": config.seed,
        "budget": config.budget,
        "config_hash": name.config_hash,
        "config": plain,
        "versions": versions(),
        "device": _device_name(device),
        "git_revision": git_revision(),
        "precision": config.trainer.precision,
        "world_size": world_size(),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


@contextmanager
def _recorded(summary: Summary, folder: Path) -> Iterator[None]:
    """Write the summary at the start, and again with the reason if the run fails."""
    if rank() != 0:
        yield
        return
    write_summary(summary, folder)
    try:
        yield
    except BaseException as error:
        message = " ".join(str(error).split()) or type(error).__name__
        failed: Summary = {**summary, "status": "failed", "error": message}
        write_summary(failed, folder)
        raise


@contextmanager
def _mirrored(config: RunConfig, name: RunName, folder: Path) -> "Iterator[Run | None]":
    """A W&B run that ends with an error code when the job fails; None without W&B."""
    options = config.logger.wandb
    if options is None:
        yield None
        return
    run_ = start_wandb(
        project=options.project,
        mode=options.mode,
        group=name.sweep or folder.parent.name,
        name=f"{folder.parent.name}_{name.config_hash}",
        config=config.model_dump(),
        folder=folder,
        tags=options.tags,
        entity=options.entity,
        run_id=None if config.force else name.config_hash,
    )
    try:
        yield run_
    except BaseException:
        finish(run_, exit_code=1)
        raise
    finish(run_)
