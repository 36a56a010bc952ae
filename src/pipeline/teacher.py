"""The teacher: given, reused or trained."""

import logging
from pathlib import Path

from src.common.distributed import on_rank_zero
from src.common.errors import UserError
from src.common.files import content_hash
from src.common.provenance import source_hash
from src.common.seeding import derive_seed, seed_all
from src.dataset.loader import LabelledBatches
from src.network.classifier import Classifier
from src.pipeline.job import Job, build_partial, locked, remove
from src.teacher.checkpoint import load_into, load_trained, save_trained
from src.teacher.evaluate import accuracy
from src.teacher.frozen import FrozenTeacher
from src.teacher.known import published, recognise
from src.teacher.module import TeacherModule

_log = logging.getLogger(__name__)
_TOLERANCE = 0.5
_SOURCE = ("network", "teacher/module.py", "dataset/loader.py", "common/augment.py")


def prepare_teacher(job: Job) -> FrozenTeacher:
    """Load the given checkpoint, reuse a trained teacher, or train one.

    Raises:
        UserError: If the checkpoint does not fit, or misses its expected accuracy under
            ``teacher.strict``.
    """
    options = job.config.teacher
    if options.checkpoint is None:
        network, acc1 = _own_teacher(job)
        expected = options.expected_acc1
    else:
        network, acc1, expected = _given_teacher(job, Path(options.checkpoint))
    if expected is not None and acc1 < expected - _TOLERANCE:
        _complain(acc1, expected, options.strict)
    return FrozenTeacher(network, acc1)


def _given_teacher(job: Job, path: Path) -> tuple[Classifier, float, float | None]:
    """Network, measured accuracy, and the expected one where somebody states it."""
    options, dataset = job.config.teacher, job.dataset.name
    network = job.network(options.network)
    known = recognise(path)
    if known is not None:
        _log.info(
            "Recognised the checkpoint: %s on %s, %s", known.network, known.dataset, known.source
        )
    load_into(network, path)
    expected = options.expected_acc1
    if expected is None and known is not None and known.dataset == dataset:
        expected = known.acc1
    return network, accuracy(network, job.test_batches()), expected


def _own_teacher(job: Job) -> tuple[Classifier, float]:
    options = job.config.teacher
    key = content_hash(
        {
            "network": options.network,
            "fit": options.fit.model_dump(),
            "seed": options.seed,
            "data": job.dataset.fingerprint(),
            "hardware": job.hardware(),
            "source": source_hash(_SOURCE),
        }
    )
    folder = job.cache / "teacher" / f"{options.name}_{key[:12]}"
    with locked(folder):
        seed_all(derive_seed(options.seed, "teacher"))
        network = job.network(options.network)
        if on_rank_zero(lambda: load_trained(network, folder)) is not None:
            _log.info("Reusing the teacher in %s", folder)
        else:
            _log.info("Training the teacher %s in %s", options.name, folder)
            for known in published(options.name, job.dataset.name):
                _log.info(
                    "Published: %.2f%%, %s (teacher.checkpoint=...)", known.acc1, known.source
                )
            acc1 = _train(job, network, folder / "state")
            on_rank_zero(lambda: save_trained(network, folder, acc1, options.name))
            remove(folder / "state")
        stored = load_trained(network, folder)
    if stored is None:
        raise UserError(f"The teacher in '{folder}' vanished while it was being used")
    return network, stored


def _train(job: Job, network: Classifier, state: Path) -> float:
    fit = job.config.teacher.fit
    batches = LabelledBatches(
        job.dataset.train(),
        job.dataset.spec,
        fit.batch_size,
        job.device,
        training=True,
        seed=job.config.teacher.seed,
    )
    module = TeacherModule(
        network,
        build_partial(fit.optimizer),
        total_steps=fit.epochs * len(batches),
        schedule=fit.schedule,
        label_smoothing=fit.label_smoothing,
    )
    test = job.test_batches()
    job.fit("teacher", module, epochs=fit.epochs, state=state, batches=batches, test=test)
    return module.acc1


def _complain(acc1: float, expected: float, strict: bool) -> None:
    message = (
        f"Expected the teacher to reach {expected:.2f}% on the test split, but it reaches "
        f"{acc1:.2f}%; check that checkpoint, data and normalisation belong together, or set "
        "teacher.expected_acc1"
    )
    if strict:
        raise UserError(message)
    _log.warning(message)
