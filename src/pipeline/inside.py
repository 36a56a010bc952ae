"""Looking inside a finished run: numbers, prototypes as pictures, and features for later."""

import logging
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from src.common.divergence import divergence_from_uniform
from src.common.errors import described
from src.common.files import atomic_write
from src.common.freezing import mode
from src.common.sealed import write_sealed
from src.common.tensors import save_tensors
from src.dataset.normalisation import Normalisation
from src.inside.clusters import class_mix, clusters, principal
from src.inside.frechet import FrechetDistance
from src.inside.inception import DIM, Inception
from src.inside.shares import class_shares, share_of, share_per_class
from src.kdci.adjustment import Adjustment
from src.kdci.compensation import BackdoorCompensation
from src.kdci.dictionary import ConfounderDictionary, predictions_of
from src.kdci.mixin import KDCIMixin
from src.pipeline.job import Job
from src.pipeline.pictures import evenly_spaced, shown_of_all
from src.pipeline.stage_a import Substitution
from src.report.grid import save_image_grid
from src.student.module import StudentModule
from src.substitution.image_bank import ImageBank
from src.teacher.frozen import FrozenTeacher

FILES = {
    "inside": "inside.json",
    "prototypes": "prototypes.png",
    "features": "features.safetensors",
}
TRACEBACK = "traceback_inside.txt"
_log = logging.getLogger(__name__)
_BATCH, _INCEPTION_BATCH = 250, 50
_FRECHET_IMAGES, _FEATURES = 10_000, 1_000
_NEAREST, _ROWS_OF_PROTOTYPES = 8, 16


def look_inside(
    job: Job,
    teacher: FrozenTeacher,
    substitution: Substitution,
    dictionary: ConfounderDictionary | None,
    student: StudentModule,
) -> tuple[dict[str, str], str | None]:
    """Measure and write, on rank 0; whatever fails here, the run has its result.

    A failure is a warning, a traceback in the run's folder, and a line in its summary; nothing
    that was measured of an earlier student stays behind.

    Returns:
        Names of the files that were written, and what failed, in one line.
    """
    for name in (*FILES.values(), TRACEBACK):
        (job.folder / name).unlink(missing_ok=True)
    try:
        return _look(job, teacher, substitution, dictionary, student), None
    except Exception as error:  # noqa: BLE001 - no measure is worth the student it measures
        reason = described(error)
        path = job.folder / TRACEBACK
        with suppress(OSError):
            path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        _log.warning(
            "Looking inside failed (%s; traceback in '%s'); the result stands", reason, path
        )
        for name in FILES.values():
            with suppress(OSError):
                (job.folder / name).unlink(missing_ok=True)
        return {}, reason


def _look(
    job: Job,
    teacher: FrozenTeacher,
    substitution: Substitution,
    dictionary: ConfounderDictionary | None,
    student: StudentModule,
) -> dict[str, str]:
    recording = substitution.recording
    distance = FrechetDistance(recording.features.shape[1])
    distance.add_images(
        recording.features[evenly_spaced(len(recording.features), _FRECHET_IMAGES)]
    )
    seen = _see(job, teacher, student, distance)
    content = _of_test_images(seen, job.dataset.spec.num_classes)
    content["classes"] = _classes(job, substitution, seen.labels)
    content["fid"] = {
        "extractor": f"teacher {job.config.teacher.name}, penultimate features",
        "value": distance.value(),
        "images": distance.images,
        "originals": distance.originals,
    }
    content["inception_fid"] = _inception_fid(job, recording.banks)
    written = {"inside": FILES["inside"], "features": FILES["features"]}
    if dictionary is not None and isinstance(student, KDCIMixin):
        content["prototypes"] = _prototypes(
            job, substitution, dictionary, student.adjustment, seen
        )
        written["prototypes"] = FILES["prototypes"]
    with atomic_write(job.folder / FILES["features"]) as temporary:
        save_tensors({"features": seen.features, "labels": seen.labels[seen.kept]}, temporary)
    write_sealed(job.folder / FILES["inside"], content)
    return written


class _Seen(NamedTuple):
    """What teacher and student say of the test split, on the CPU.

    Attributes:
        labels: ``[n]`` int64.
        teacher: Predicted classes, ``[n]``.
        student: Predicted classes of the plain student, ``[n]``.
        attention: Mean lambda over the images, ``[N]``; None without.
        kept: Indices of the images whose features are kept, ``[m]``.
        features: The student's penultimate features of these, ``[m, d]`` float16.
    """

    labels: Tensor
    teacher: Tensor
    student: Tensor
    attention: Tensor | None
    kept: Tensor
    features: Tensor


@torch.no_grad()
def _see(
    job: Job, teacher: FrozenTeacher, student: StudentModule, distance: FrechetDistance
) -> _Seen:
    """One pass over the whole test split, in float32; here, not over all ranks."""
    split = job.dataset.test()
    count = len(split.labels)
    kept = evenly_spaced(count, _FEATURES)
    normalisation = Normalisation.of(job.dataset.spec).to(job.device)
    by_teacher, by_student, features, attention = [], [], [], []
    adjustment = student.adjustment if isinstance(student, KDCIMixin) else None
    with mode(student.network, False):
        for index in torch.arange(count).split(_BATCH):
            images = normalisation.from_uint8(split.images[index].to(job.device))
            said = teacher(images)
            distance.add_originals(said.features)
            embedded = student.network.embed(images).float()
            raw_logits = student.network.logits(embedded)
            by_teacher.append(said.logits.argmax(1).cpu())
            by_student.append(student.plain_logits(raw_logits).argmax(1).cpu())
            within = kept[(kept >= index[0]) & (kept <= index[-1])] - index[0]
            features.append(embedded.cpu()[within].half())
            if isinstance(adjustment, BackdoorCompensation):
                weights = adjustment.log_attention(raw_logits).exp()
                attention.append(weights.double().sum(0).cpu())
    mean = torch.stack(attention).sum(0) / count if attention else None
    joined = torch.cat(by_teacher), torch.cat(by_student)
    return _Seen(split.labels.cpu(), *joined, mean, kept, torch.cat(features))


def _inception_fid(job: Job, banks: Sequence[ImageBank]) -> dict[str, Any] | None:
    """Between evenly spaced substitution and test images; None unless it was asked for."""
    options, spec = job.config.fid, job.dataset.spec
    if options.weights is None:
        return None
    network, distance = Inception(Path(options.weights)), FrechetDistance(DIM)
    job.to_device(network)
    tests = job.dataset.test().images
    rows = evenly_spaced(sum(map(len, banks)), options.images)
    kept = evenly_spaced(len(tests), options.images)
    _log.info("Looking inside: Inception features of %d images", len(rows) + len(kept))
    for part in rows.split(_INCEPTION_BATCH):
        images = shown_of_all(banks, part, spec)
        distance.add_images(network(images.to(job.device)))
    for part in kept.split(_INCEPTION_BATCH):
        distance.add_originals(network(tests[part].to(job.device)))
    return {
        **network.facts,
        "value": distance.value(),
        "images": distance.images,
        "originals": distance.originals,
        "originals_are": "images of the test split",
        "image_size": spec.image_size,
    }


def _of_test_images(seen: _Seen, num_classes: int) -> dict[str, Any]:
    same = seen.student == seen.teacher
    right = share_per_class(seen.student == seen.labels, seen.labels, num_classes)
    return {
        "agreement": {
            "overall": share_of(same),
            "per_class": share_per_class(same, seen.labels, num_classes),
        },
        "accuracy_per_class": [None if share is None else 100 * share for share in right],
    }


def _classes(job: Job, substitution: Substitution, labels: Tensor) -> dict[str, Any]:
    # Of all ranks; this one has recorded a part.
    shares = substitution.info.class_proportions
    return {
        "names": list(job.dataset.class_names),
        "substitution": shares,
        "original": class_shares(labels, job.dataset.spec.num_classes),
        "original_is": "labels of the test split",
        "divergence": divergence_from_uniform(shares),
    }


def _prototypes(
    job: Job,
    substitution: Substitution,
    dictionary: ConfounderDictionary,
    adjustment: Adjustment,
    seen: _Seen,
) -> dict[str, Any]:
    """Numbers of every prototype as the student met it last, and a picture of the largest."""
    recording = substitution.recording
    # Of the adjustment: an online run may have built another dictionary since.
    prototypes, prior = adjustment.prototypes.cpu(), adjustment.prior.cpu()
    rows = predictions_of(recording, dictionary.space)
    pca_dim = dictionary.provenance.get("pca_dim")
    if pca_dim is not None:
        rows, prototypes = principal(rows, prototypes, pca_dim)
    found = clusters(rows, prototypes, _NEAREST)
    largest = prior.argsort(descending=True, stable=True)[:_ROWS_OF_PROTOTYPES]
    pictures = shown_of_all(recording.banks, found.nearest[largest].flatten(), job.dataset.spec)
    path, columns = job.folder / FILES["prototypes"], found.nearest.shape[1]
    save_image_grid(pictures, path, columns, substitution.attribution)
    num_classes = job.dataset.spec.num_classes
    predicted = recording.logits.argmax(1)
    return {
        "prior": prior.tolist(),
        "classes": class_mix(found.assignment, predicted, len(prior), num_classes),
        "attention": None if seen.attention is None else seen.attention.tolist(),
        "nearest": found.nearest.tolist(),
    }
