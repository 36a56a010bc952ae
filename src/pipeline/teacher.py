"""The teacher: given, reused or trained."""

import logging
import re
from pathlib import Path
from typing import cast

import torch
from hydra.utils import get_class
from torch import Tensor, nn

from src.common.distributed import on_rank_zero
from src.common.errors import UserError
from src.common.files import remove_leftovers
from src.common.sealed import DamagedError
from src.common.seeding import derive_seed, seed_all
from src.common.sync_batch_norm import require_syncable
from src.config.lengths import refuse_wide_pca
from src.config.node import build, build_partial
from src.config.schema import RunConfig, Student, Teacher
from src.config.trial import check_size
from src.dataset.contract import Dataset, ImageSpec, Pool
from src.dataset.loader import LabelledBatches
from src.network.classifier import Classifier
from src.network.stages import heard
from src.objective.attention_transfer import require_alike
from src.objective.class_activation import require_read
from src.pipeline.job import Job, locked, remove
from src.substitution.contract import Baseline, Extent
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


def refuse_misfit(config: RunConfig) -> None:
    """Refuse a checkpoint, generator or dictionary that cannot fit, before an image is decoded.

    Raises:
        UserError: If the checkpoint is missing, damaged, or of another network or number of
            classes; if its classes may be in another order, or their map does not fit; or if a
            generator cannot make images of the data set's size, the dictionary has more
            prototypes than there will be images, a PCA as wide as what it reduces, or too few
            images to hold some out.
    """
    dataset: Dataset = build(config.dataset)
    if config.teacher.checkpoint is not None:
        path = Path(config.teacher.checkpoint)
        _load(config, dataset, path, quiet=True)
        if config.teacher.class_map is None:  # which says what each class is
            _refuse_permuted(dataset, path)
    if config.task == "distill":
        check_size("baseline", config.baseline, "baseline", dataset.geometry.size)
        refuse_wide_pca(config, len(dataset.class_names))
        _refuse_few_images(config)


def refuse_unfit_networks(job: Job) -> None:
    """Refuse networks and a method that cannot do their part, before anything is trained.

    Of a run that only trains a teacher, the teacher; what the method needs of it is then open.

    Raises:
        UserError: If images are too small or too large for one of them, the teacher lacks the
            BatchNorm layers that the method reads, stage maps differ that its loss compares, a
            last layer reads something else than these maps where the loss weighs them by it, or
            the method refuses its options.
    """
    config = job.config
    if config.task != "distill":
        _tried(job, "teacher", config.teacher)
        return
    compares_maps = _method(config).compares_maps(config.baseline)
    teacher, of_teacher = _tried(job, "teacher", config.teacher, compares_maps)
    _refuse_without_statistics(config, teacher)
    _try_method(job, teacher)
    student, of_student = _tried(job, "student", config.student, compares_maps)
    if compares_maps and of_teacher is not None and of_student is not None:
        require_alike(of_student, of_teacher)
        if _method(config).weighs_maps(config.baseline):
            require_read(of_teacher[-1], teacher.head.weight)
            require_read(of_student[-1], student.head.weight)


def _tried(
    job: Job, role: str, chosen: Teacher | Student, with_maps: bool = False
) -> tuple[Classifier, list[Tensor] | None]:
    """A network after a pass without memory, and its stage maps; None if there is no such pass."""
    options = job.config.trainer
    is_trained = role == "student" or job.config.teacher.checkpoint is None
    size = job.dataset.geometry.size  # of the spec, images had to be read
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        network: Classifier = build(chosen.network, num_classes=len(job.dataset.class_names))
        if options.sync_batch_norm and options.ranks > 1 and is_trained:
            require_syncable(network)
        try:
            with heard(network, network.stage_names if with_maps else ()) as maps:
                network.eval()(torch.empty(2, 3, size, size))
        except NotImplementedError:  # of an operation that the meta device does not know
            return network, None
        except (UserError, RuntimeError, ValueError, AssertionError, IndexError) as error:
            raise UserError(
                f"Cannot use the {role} '{chosen.name}' on images of {size} pixels "
                f"({error}); choose another dataset.image_size or network"
            ) from error
    return network, maps


def _try_method(job: Job, teacher: Classifier) -> None:
    """Build the method without memory, for what only its constructor knows to refuse."""
    if _method(job.config).reads_pool:  # which may take hours to decode
        return
    geometry, grey = job.dataset.geometry, (0.5, 0.5, 0.5)
    spec = ImageSpec(len(job.dataset.class_names), geometry.size, mean=grey, std=grey)
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            build(job.config.baseline, teacher=FrozenTeacher(teacher), spec=spec)
    # Of an operation that the meta device lacks, or of a teacher that nobody has measured yet.
    except (NotImplementedError, RuntimeError, TypeError, AttributeError):
        return


def _refuse_without_statistics(config: RunConfig, network: Classifier) -> None:
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        return
    method = _method(config)
    if method.reads_statistics:
        raise UserError(
            f"Expected a teacher with BatchNorm layers, whose statistics {method.__name__} reads, "
            f"but '{config.teacher.name}' has none; choose another teacher, or a baseline without "
            "`reads_statistics`"
        )


def _refuse_few_images(config: RunConfig) -> None:
    """Stage (a) may record fewer: dictionary and student then count what there really is."""
    wanted, share = config.kdci.N if config.kdci else None, config.distill.held_out
    if not isinstance(wanted, int) and not share:  # vanilla, or as many as are found
        return
    name, found = _method(config).__name__, _most_recorded(config)
    parts = " and ".join(f"{count} by {what}" for what, count in found.items())
    if found and isinstance(wanted, int) and sum(found.values()) < wanted:
        raise UserError(
            f"Expected kdci.N <= number of images that {name} records, but got {wanted} > "
            f"{parts}; lower kdci.N, or have more images recorded"
        )
    ranks = config.trainer.ranks
    if found and share and min(found.values()) // ranks < 2:  # of one, none could be left
        among = "" if ranks == 1 else f" for each of {ranks} ranks"
        raise UserError(
            f"Expected at least two recorded images in every bank{among} for distill.held_out="
            f"{share}, but {name} records {parts}; have more recorded, or use distill.held_out=0"
        )


def _most_recorded(config: RunConfig) -> dict[str, int]:
    method, options = _method(config), config.substitution
    pool: Pool | None = build(config.pool) if method.reads_pool else None
    rounds = max(1, options.warmup_rounds) if options.mode == "online" else options.rounds
    extent = Extent(
        rounds=rounds,
        num_images=options.num_images,
        pool=None if pool is None else pool.count(),
    )
    return method.most_recorded(config.baseline, extent)


def _method(config: RunConfig) -> "type[Baseline]":
    return cast("type[Baseline]", get_class(config.baseline["_target_"]))


def _refuse_permuted(dataset: Dataset, checkpoint: Path) -> None:
    """A teacher whose classes are in another order is only seen by its accuracy."""
    if dataset.doubtful_order is not None:
        raise UserError(
            "Expected dataset.order=name or dataset.order=natural with a given teacher, but "
            f"{dataset.doubtful_order}; choose what the teacher was trained with, else all "
            "labels are permuted in silence"
        )
    known, names = recognise(checkpoint), dataset.class_names
    if known is None or known.dataset != "imagenet" or dataset.name == "imagenet":
        return
    is_ordered = all(re.fullmatch(r"n\d{8}|\d+", name) for name in names)
    if not is_ordered:
        raise UserError(
            f"Expected class folders named by WordNet identifier (n01440764) for '{checkpoint}', "
            f"a teacher of ImageNet, but got {', '.join(names[:3])}, ...: by name their labels "
            "would be permuted; rename them, say which is which with teacher.class_map=FILE, or "
            "use dataset=imagenet"
        )


def _given_teacher(job: Job, path: Path) -> tuple[Classifier, float, float | None]:
    """Network, measured accuracy, and the expected one where somebody states it."""
    options, dataset = job.config.teacher, job.dataset.name
    known = recognise(path)
    if known is not None:
        _log.info(
            "Recognised the checkpoint: %s on %s, %s", known.network, known.dataset, known.source
        )
    network = _load(job.config, job.dataset, path)
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


def _load(config: RunConfig, dataset: Dataset, path: Path, *, quiet: bool = False) -> Classifier:
    options = config.teacher
    class_map = None if options.class_map is None else Path(options.class_map)

    def make(count: int) -> Classifier:
        network: Classifier = build(options.network, num_classes=count)
        return network

    return load_given(make, path, dataset.class_names, class_map, quiet=quiet)


def _own_teacher(job: Job) -> tuple[Classifier, float]:
    options = job.config.teacher
    folder = job.cache / "teacher" / f"{options.name}_{job.identity.teacher[:12]}"
    with locked(folder):
        on_rank_zero(lambda: remove_leftovers(folder))
        seed_all(derive_seed(options.seed, "teacher"))
        network = job.network(options.network)
        if on_rank_zero(lambda: _is_reusable(network, folder)):
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
