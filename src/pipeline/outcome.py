"""What a finished run leaves in its folder."""

from datetime import UTC, datetime
from typing import Any, cast

import torch

from src.common.measure import Measurement, measured
from src.common.sealed import digests
from src.deploy.save import save_student
from src.kdci.dictionary import ConfounderDictionary
from src.kdci.mixin import KDCIMixin
from src.pipeline.evaluation import evaluate_every
from src.pipeline.inside import look_inside
from src.pipeline.job import Job
from src.pipeline.pictures import evenly_spaced, shown
from src.pipeline.stage_a import Substitution
from src.report.dashboard import log_summary, tolerated
from src.report.grid import save_image_grid
from src.report.summary import Summary, write_summary
from src.student.module import StudentModule
from src.teacher.frozen import FrozenTeacher

_GRID_IMAGES, _GRID_COLUMNS = 64, 16
_CHECKED = ("student", "card", "images")


def write_outcome(
    job: Job,
    summary: Summary,
    teacher: FrozenTeacher,
    substitution: Substitution,
    dictionary: ConfounderDictionary | None,
    student: StudentModule,
) -> None:
    """Write student, card, pictures, measures and, last, the finished summary; mirror it."""
    # No stage of the job: its source would shape the identity of every teacher.
    job.costs["inside"] = Measurement()
    with measured(job.costs["inside"]):
        files, error = look_inside(job, teacher, substitution, dictionary, student)
    finished = {**summary, **_results(job, teacher, substitution, student)}
    finished["files"] |= files
    finished["inside_error"] = error
    finished["dictionary"] = _dictionary(job, substitution, dictionary)
    finished["adjustment"] = student.adjustment.facts if isinstance(student, KDCIMixin) else None
    _write_student(job, student, finished)
    _write_grid(job, substitution)
    finished["checksums"] = digests(job.folder, [finished["files"][name] for name in _CHECKED])
    written = cast("Summary", finished)
    write_summary(written, job.folder)
    names = job.dataset.class_names
    with tolerated(job.wandb_run):
        log_summary(job.wandb_run, written, names, job.folder / "substitution.png")


def _results(
    job: Job, teacher: FrozenTeacher, substitution: Substitution, student: StudentModule
) -> dict[str, Any]:
    options, info = job.config.teacher, substitution.info
    seconds = {stage: round(cost.seconds, 3) for stage, cost in job.costs.items()}
    memory = {stage: round(cost.peak_memory_mb, 1) for stage, cost in job.costs.items()}
    return {
        "status": "finished",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "teacher": {
            "name": options.name,
            "acc1": _rounded(teacher.acc1),
            "seed": options.seed,
            "checkpoint": options.checkpoint,
            "sha256": teacher.fingerprint(),
        },
        "acc1": {**student.acc1, "stage_a": _rounded(info.acc1_stage_a)},
        "evaluated_every": evaluate_every(job.config.distill, len(job.dataset.test().labels)),
        "substitution": {
            "mode": job.config.substitution.mode,
            "images": info.images,
            "reused": substitution.reused,
            "artifact": str(substitution.artifact.folder),
            "losses": info.losses,
        },
        "seconds": {**seconds, "total": round(sum(seconds.values()), 3)},
        "resumed": sorted(job.resumed),
        "peak_memory_mb": max(memory.values()),
        "peak_memory_mb_by_stage": memory,
        "class_proportions": info.class_proportions,
        "files": {
            "student": "student.safetensors",
            "card": "student.json",
            "metrics": "metrics",
            "images": "substitution.png",
        },
    }


def _dictionary(
    job: Job, substitution: Substitution, dictionary: ConfounderDictionary | None
) -> dict[str, Any] | None:
    """Where it comes from and where it lies, as seen from the cache."""
    if dictionary is None or substitution.builder is None:
        return None
    path = str(substitution.builder.path.relative_to(job.cache))
    return {**dictionary.provenance, "prior": dictionary.prior.tolist(), "path": path}


def _rounded(acc1: float | None) -> float | None:
    return None if acc1 is None else round(acc1, 4)


def _write_student(job: Job, student: StudentModule, finished: dict[str, Any]) -> None:
    spec = job.dataset.spec
    card = {
        "architecture": job.config.student.network,
        "class_names": list(job.dataset.class_names),
        "image_size": spec.image_size,
        "shorter_side": job.dataset.geometry.shorter_side,
        "normalisation": {"mean": spec.mean, "std": spec.std},
        "accuracy": {"acc1": student.acc1["last"], "split": "test", "epoch": "last"},
        "made_by": {
            key: finished[key]
            for key in ("dataset", "baseline", "kdci", "seed", "budget", "teacher", "identity")
        },
    }
    fuse = student.adjustment.fuse if isinstance(student, KDCIMixin) else None
    save_student(job.folder, student.network, card, fuse)


def _write_grid(job: Job, substitution: Substitution) -> None:
    banks = substitution.recording.banks
    each = _GRID_IMAGES // len(banks)
    spec = job.dataset.spec
    images = torch.cat([shown(bank, evenly_spaced(len(bank), each), spec) for bank in banks])
    caption = substitution.attribution
    save_image_grid(images, job.folder / "substitution.png", _GRID_COLUMNS, caption)
