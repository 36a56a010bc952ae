"""Recorded images that a student is measured on instead of trained."""

import torch
from torch import Tensor

from src.common.distributed import sum_over_ranks
from src.common.freezing import mode
from src.pipeline.job import Job
from src.report.summary import HeldOutSummary
from src.student.module import StudentModule
from src.substitution.batches import held_out_rows
from src.substitution.module import Recording

_BATCH = 250


def by_bank(recording: Recording, rows: Tensor) -> list[Tensor]:
    """What belongs to each bank, of ``rows`` ``[M, ...]`` in the order of the recording."""
    return list(rows.split([len(bank) for bank in recording.banks]))


def held_out(job: Job, recording: Recording) -> list[Tensor] | None:
    """Rows of each bank, ``[m]`` int64; None if all images are trained on.

    They are the same in all runs on one stage (a), whatever the student: of the seed, not of a
    repeat.
    """
    share = job.config.distill.held_out
    if not share:
        return None
    return held_out_rows([len(bank) for bank in recording.banks], share, job.config.seed)


@torch.no_grad()
def agreement(job: Job, recording: Recording, student: StudentModule) -> HeldOutSummary | None:
    """How often the plain student predicts what the teacher did, in float32, over all ranks.

    Neither labels nor test images are read. The images are as they were recorded, not augmented.

    Raises:
        FloatingPointError: If a prediction is NaN or infinite, which would count as class 0.
    """
    rows = held_out(job, recording)
    if rows is None:
        return None
    mine, teacher = [], []
    with mode(student.network, False):
        for bank, held, said in zip(
            recording.banks, rows, by_bank(recording, recording.logits), strict=True
        ):
            for index in held.split(_BATCH):
                logits = student.network(bank.batch(index))
                mine.append(student.plain_logits(logits).cpu())
                teacher.append(said[index])
    logits, classes = torch.cat(mine), torch.cat(teacher).argmax(1)
    same, bad = (logits.argmax(1) == classes).sum(), (~logits.isfinite()).sum()
    counts = torch.bincount(classes, minlength=logits.shape[1])
    counted = torch.cat([torch.stack([same, bad]), counts]).to(job.device)
    agreeing, broken, *by_class = sum_over_ranks(counted).tolist()
    if broken:
        raise FloatingPointError(
            "The student's logits on held-out substitution images are NaN or infinite; lower the "
            "learning rate, or use trainer.precision=32-true"
        )
    images = sum(by_class)
    return {
        "images": images,
        "agreement": round(100 * agreeing / images, 4),
        "one_class": round(100 * max(by_class) / images, 4),
    }
