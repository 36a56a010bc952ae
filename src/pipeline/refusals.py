"""What cannot fit is refused before anything is trained: checkpoint, networks, method, sizes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from hydra.utils import get_class
from torch import Tensor, nn

from src.common.errors import UserError
from src.common.sync_batch_norm import require_syncable
from src.config.kind import constructors_of, with_defaults
from src.config.node import build
from src.config.schema import RunConfig, Student, Teacher
from src.config.trial import check_adjustment, check_size
from src.dataset.contract import Dataset, ImageSpec, Pool
from src.kdci.clustering import KMeans
from src.kdci.dictionary import Space
from src.network.classifier import Classifier
from src.network.stages import heard
from src.objective.attention_transfer import require_alike
from src.objective.class_activation import require_read
from src.pipeline.job import Job
from src.pipeline.teacher import load_checkpoint
from src.substitution.contract import Baseline, Extent
from src.teacher.frozen import FrozenTeacher
from src.teacher.known import recognise

_Answer = TypeVar("_Answer")


def refuse_misfit(config: RunConfig) -> None:
    """Refuse a checkpoint, generator or dictionary that cannot fit, before an image is decoded.

    Raises:
        UserError: If the checkpoint is missing, damaged, or of another network or number of
            classes; if its classes may be in another order, or their map does not fit; or if a
            generator cannot make images of the data set's size, an adjustment cannot adjust
            predictions of its classes, a PCA is as wide as the logits that it reduces, the
            dictionary has more prototypes than there will be images, the student gets larger
            batches than the method has, or there are too few images to hold some out.
    """
    dataset: Dataset = build(config.dataset)
    if config.teacher.checkpoint is not None:
        path = Path(config.teacher.checkpoint)
        load_checkpoint(config, dataset, path, quiet=True)
        if config.teacher.class_map is None:  # which says what each class is
            _refuse_permuted(dataset, path)
    if config.task == "distill":
        check_size("baseline", config.baseline, "baseline", dataset.geometry.size)
        _refuse_large_batch(config)
        _refuse_few_images(config)
        _refuse_misfit_kdci(config, len(dataset.class_names))


def refuse_unfit_networks(job: Job) -> None:
    """Refuse networks and a method that cannot do their part, before anything is trained.

    Of a run that only trains a teacher, the teacher; what the method needs of it is then open.

    Raises:
        UserError: If images are too small or too large for one of them, the teacher lacks the
            BatchNorm layers that the method reads, stage maps differ that its loss compares, a
            last layer reads something else than these maps where the loss weighs them by it, a
            PCA is as wide as the features that it reduces, or the method refuses its options.
    """
    config = job.config
    if config.task != "distill":
        _tried(job, "teacher", config.teacher)
        return
    compares_maps = bool(_asked(config, _method(config).compares_maps))
    teacher, of_teacher = _tried(job, "teacher", config.teacher, compares_maps)
    _refuse_wide_pca(config, "features", teacher.feature_dim)
    _refuse_without_statistics(config, teacher)
    _try_method(job, teacher)
    student, of_student = _tried(job, "student", config.student, compares_maps)
    if compares_maps and of_teacher is not None and of_student is not None:
        require_alike(of_student, of_teacher)
        if _asked(config, _method(config).weighs_maps):
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
    name, found = _method(config).__name__, _most_recorded(config)  # a pool may be too small
    if not isinstance(wanted, int) and not share:  # vanilla, or as many as are found
        return
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


def _refuse_large_batch(config: RunConfig) -> None:
    """Online, a method may show the student no more images than it has just made."""
    method, asked = _method(config), config.distill.batch_size
    if config.substitution.mode != "online":
        return
    most = _asked(config, method.largest_sample)
    if most is not None and asked > most:
        raise UserError(
            f"Expected distill.batch_size <= {most} with substitution.mode=online, since "
            f"{method.__name__} shows its student the batch of a round, but got {asked}; give "
            f"distill.batch_size={most}, or baseline.batch_size={asked}"
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
    return _asked(config, method.most_recorded, extent) or {}


def _asked(config: RunConfig, question: Callable[..., _Answer], *more: Any) -> _Answer | None:
    """What the method says of its options; None where one is missing that it reads."""
    method = _method(config)
    options = with_defaults(config.baseline, method)
    try:
        return question(options, *more)
    except KeyError as error:
        known = {name for parameters in constructors_of(method) for name in parameters}
        if {*error.args} <= known - options.keys():
            return None  # a subclass gives it to its base itself
        raise  # a fault of its own


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


def _refuse_misfit_kdci(config: RunConfig, num_classes: int) -> None:
    if config.kdci is None:
        return
    node, wanted = config.kdci.adjustment, config.kdci.N
    space = config.kdci.dictionary.get("space", "logits")
    check_adjustment("kdci.adjustment", node, space, wanted, num_classes)
    _refuse_wide_pca(config, "logits", num_classes)


def _refuse_wide_pca(config: RunConfig, space: Space, width: int) -> None:
    if config.kdci is None:
        return
    clustering = build(config.kdci.dictionary)
    if isinstance(clustering, KMeans) and clustering.space == space:
        clustering.require_wider(width)
