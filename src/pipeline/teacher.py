"""The teacher: given, reused or trained."""

import logging
from pathlib import Path

from src.common.distributed import on_rank_zero
from src.common.errors import UserError
from src.common.files import remove_leftovers
from src.common.sealed import DamagedError
from src.common.seeding import derive_seed, seed_all
from src.config.node import build, build_partial
from src.config.schema import RunConfig
from src.dataset.contract import Dataset
from src.dataset.loader import LabelledBatches
from src.network.classifier import Classifier
from src.pipeline.job import Job, locked, remove
from src.teacher.checkpoint import load_given, load_trained, save_trained
from src.teacher.evaluate import accuracy
from src.teacher.frozen import FrozenTeacher
from src.teacher.known import published, recognise
from src.teacher.module import TeacherModule

_log = logging.getLogger(__name__)
_TOLERANCE = 0.5


def prepare_teacher(job: Job) -> FrozenTeacher:
    """Load the given checkpoint, reuse a trained teacher, or train one.

    Raises:
        UserError: If the checkpoint does not fit, or misses its expected accuracy under
            ``teacher.strict``; if one that is trained here, or was, has seen test images and the
            data set does not allow it.
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


def load_checkpoint(
    config: RunConfig, dataset: Dataset, path: Path, *, quiet: bool = False
) -> Classifier:
    """The network of a given checkpoint, with the data set's classes in their order.

    Args:
        config: The checked configuration.
        dataset: Whose classes it must have.
        path: The checkpoint.
        quiet: Whether to say nothing of what was adapted in it.

    Raises:
        UserError: If it is missing, damaged, or of another network or number of classes.
    """
    options = config.teacher
    class_map = None if options.class_map is None else Path(options.class_map)

    def make(count: int) -> Classifier:
        network: Classifier = build(options.network, num_classes=count)
        return network

    return load_given(make, path, dataset.class_names, class_map, quiet=quiet)


def _given_teacher(job: Job, path: Path) -> tuple[Classifier, float, float | None]:
    """Network, measured accuracy, and the expected one where somebody states it."""
    options, dataset = job.config.teacher, job.dataset.name
    known = recognise(path)
    if known is not None:
        _log.info(
            "Recognised the checkpoint: %s on %s, %s", known.network, known.dataset, known.source
        )
    network = load_checkpoint(job.config, job.dataset, path)
    _log.info(
        "The teacher is shown images of %d pixels a side, normalised by mean %s, std %s; trained "
        "with others (docs/bring-your-own.md), it is less accurate than it was",
        job.dataset.spec.image_size,
        *(", ".join(f"{value:.3f}" for value in values) for values in job.dataset.statistics),
    )
    job.to_device(network)
    expected = options.expected_acc1
    if expected is None and known is not None and known.dataset == dataset:
        expected = known.acc1
    return network, accuracy(network, job.test_batches()), expected


def _own_teacher(job: Job) -> tuple[Classifier, float]:
    options = job.config.teacher
    folder = job.cache / "teacher" / f"{options.name}_{job.identity.teacher[:12]}"
    with locked(folder):
        on_rank_zero(lambda: remove_leftovers(folder))
        seed_all(derive_seed(options.seed, "teacher"))
        network = job.network(options.network)
        if on_rank_zero(lambda: _is_reusable(network, folder)):
            job.dataset.require_apart()  # which it may have been trained without
            _log.info("Reusing the teacher in %s", folder)
        else:
            _log.info("Training the teacher %s in %s", options.name, folder)
            for known in published(options.name, job.dataset.name):
                _log.info(
                    "Published: %.2f%%, %s (teacher.checkpoint=...)", known.acc1, known.source
                )
            acc1 = _train(job, network, folder / "state")
            job.require_unchanged_data(folder / "state")
            on_rank_zero(lambda: save_trained(network, folder, acc1, options.name))
        remove(folder / "state")  # also of one that was killed between its card and this
        stored = load_trained(network, folder)
    if stored is None:
        raise UserError(f"The teacher in '{folder}' vanished while it was being used")
    return network, stored


def _is_reusable(network: Classifier, folder: Path) -> bool:
    """Whether a whole teacher lies there; a damaged one is reported."""
    try:
        return load_trained(network, folder) is not None
    except DamagedError as error:
        _log.warning("A teacher that was trained before is damaged: %s; it is not used", error)
        return False


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
    job.fit(
        "teacher",
        module,
        epochs=fit.epochs,
        state=state,
        batches=batches,
        test=test,
        leaves_out=job.leaves_out(network, network),
    )
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
