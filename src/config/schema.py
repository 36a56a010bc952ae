"""The composed configuration, checked before any work starts.

Plain groups are pydantic models. A node with ``_target_`` is checked against the signature of
the class that it names: the constructor is its schema.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    model_validator,
)

from src.common.errors import UserError
from src.common.plugins import refuse_unfit_plugins
from src.config.describe import describe
from src.config.node import Node, refuse_foreign_targets, target_of
from src.config.trial import check_node, try_adjustment, try_optimizer, try_scheduler
from src.config.value import LARGEST_BATCH, LARGEST_COUNT, refuse_non_finite, shown

VANILLA = "none"
# Generous bounds: a value beyond them is a slip that would fill the memory or never end.
Count = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
"""Of steps, rounds, epochs and images."""
CountOrNone = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
"""Of what may also be absent."""
BatchSize = Annotated[int, Field(gt=0, le=LARGEST_BATCH)]
"""Images a step."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What every generator of random numbers takes."""
_TEACHER_TRIAL_STEPS = 100  # how many there will be depends on the images


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Substitution(_Model):
    """Stage (a)."""

    mode: Literal["replay", "online"]
    published_mode: Literal["replay", "online"] | None
    rounds: Count
    num_images: Count
    record_from: float = Field(ge=0, le=1)
    warmup_rounds: CountOrNone
    log_every: Count


class Distill(_Model):
    """Stage (b)."""

    epochs: Count
    steps_per_epoch: Count
    steps_per_round: Count
    batch_size: BatchSize
    repeat: Seed
    evaluate_every: Count | Literal["auto"]
    held_out: float = Field(ge=0, lt=1)
    objective_lr: PositiveFloat
    scheduler_steps: Count | None
    optimizer: Node
    scheduler: Node | None


class Search(_Model):
    """What a sweep that chooses its own points is told of each."""

    objective: Literal["agreement", "acc1"]


class TeacherFit(_Model):
    """Training of a teacher."""

    epochs: Count
    batch_size: BatchSize
    label_smoothing: float = Field(ge=0, lt=1)
    schedule: Literal["one_cycle", "cosine"]
    optimizer: Node


class Teacher(_Model):
    """The teacher."""

    name: str
    network: Node
    checkpoint: str | None
    class_map: str | None
    expected_acc1: float | None = Field(ge=0, le=100)
    strict: bool
    seed: Seed
    fit: TeacherFit

    @model_validator(mode="after")
    def _mapped_only_if_given(self) -> "Teacher":
        if self.class_map is not None and self.checkpoint is None:
            raise ValueError(
                "teacher.class_map needs teacher.checkpoint: a teacher that is trained here has "
                "the classes of the data"
            )
        return self


class Student(_Model):
    """The student."""

    name: str
    network: Node


class Kdci(_Model):
    """De-confounding; absent with ``kdci=none``."""

    name: str = Field(pattern=r"^[\w.-]+$")
    N: Annotated[int, Field(gt=0, le=1_000_000)] | Literal["auto"]
    dictionary: Node
    adjustment: Node
    lr_scale: NonNegativeFloat
    refresh_every: Count | None


class TrainerOptions(_Model):
    """Device, precision and processes: ``devices`` of them on each of ``nodes`` machines."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: int = Field(gt=0, le=4096)
    nodes: int = Field(gt=0, le=4096)
    precision: Literal["32-true", "bf16-mixed"]
    channels_last: bool
    deterministic: bool
    progress: bool


class Wandb(_Model):
    """Weights & Biases."""

    project: str
    mode: Literal["online", "offline", "disabled"]
    entity: str | None
    tags: list[str]


class Logger(_Model):
    """Where metrics go besides CSV."""

    name: str
    wandb: Wandb | None


class Fid(_Model):
    """Fréchet Inception distance of the finished run."""

    weights: str | None
    images: int = Field(ge=2, le=LARGEST_COUNT)


class Paths(_Model):
    """Folders."""

    outputs: str
    cache: str
    data: str


class RunConfig(_Model):
    """A whole run."""

    plugins: list[str]
    task: Literal["distill", "teacher"]
    seed: Seed
    force: bool
    budget: str
    dataset: Node
    pool: Node
    baseline: Node
    substitution: Substitution
    distill: Distill
    search: Search
    teacher: Teacher
    student: Student
    kdci: Kdci | None
    trainer: TrainerOptions
    logger: Logger
    fid: Fid
    paths: Paths

    @model_validator(mode="after")
    def _online_only(self) -> "RunConfig":
        every = self.kdci.refresh_every if self.kdci else None
        if every is not None and self.substitution.mode != "online":
            raise ValueError("kdci.refresh_every needs substitution.mode=online")
        return self

    @model_validator(mode="after")
    def _held_out_of_replay(self) -> "RunConfig":
        if self.distill.held_out and self.substitution.mode != "replay":
            raise ValueError(
                "distill.held_out needs substitution.mode=replay: online, the images are made or "
                "met while the student trains, by a method that its options shape too, so none "
                "can be held out that another run is measured on as well"
            )
        return self


def check(config: Mapping[str, Any]) -> RunConfig:
    """Check a resolved configuration, and build in small what it names.

    Raises:
        UserError: For the first wrong key: its name, its value, what is allowed, and for an
            unknown key the nearest name.
    """
    config = _without_vanilla(config)
    refuse_non_finite("", config)
    try:
        checked = RunConfig.model_validate(config)
    except ValidationError as error:
        raise UserError(describe(error, RunConfig)) from error
    refuse_unfit_plugins(checked.plugins)
    refuse_foreign_targets("", config, checked.plugins)
    check_node("dataset", checked.dataset, "dataset")
    check_node("pool", checked.pool, "pool")
    check_node("baseline", checked.baseline, "baseline")
    check_node("teacher.network", checked.teacher.network, "network")
    check_node("student.network", checked.student.network, "network")
    if checked.kdci is not None:
        check_node("kdci.dictionary", checked.kdci.dictionary, "clustering")
        check_node("kdci.adjustment", checked.kdci.adjustment, "adjustment")
    _check_teacher_fit(checked.teacher.fit)
    _check_distill(checked)
    return checked


def _without_vanilla(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, without the unread options of ``kdci=none``."""
    if not isinstance(config, Mapping):
        raise UserError(f"Expected a configuration of keys and values, but got {shown(config)}")
    kdci = config.get("kdci")
    if kdci is None:
        raise UserError(
            "Missing configuration group 'kdci'; for a run without compensation use kdci=none"
        )
    is_vanilla = isinstance(kdci, Mapping) and kdci.get("name") == VANILLA
    return {**config, "kdci": None if is_vanilla else kdci}


def _check_teacher_fit(fit: TeacherFit) -> None:
    path = "teacher.fit.optimizer"
    check_node(path, fit.optimizer, "optimizer")
    schedules = {
        "one_cycle": {
            "_target_": "torch.optim.lr_scheduler.OneCycleLR",
            "max_lr": fit.optimizer.get("lr"),
            "total_steps": _TEACHER_TRIAL_STEPS,
        },
        "cosine": {
            "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "T_max": _TEACHER_TRIAL_STEPS,
        },
    }
    if fit.schedule == "one_cycle":
        _require_rate(path, fit.optimizer, "teacher.fit.schedule=one_cycle peaks at it")
    node = schedules[fit.schedule]
    optimizer = partial(try_optimizer, path, fit.optimizer)
    try_scheduler("teacher.fit.schedule", node, optimizer, _TEACHER_TRIAL_STEPS - 1)


def _check_distill(config: RunConfig) -> None:
    path, options = "distill.optimizer", config.distill
    check_node(path, options.optimizer, "optimizer")
    _require_rate(path, options.optimizer, "the student's parameter groups are made with it")
    if options.scheduler is not None:
        check_node("distill.scheduler", options.scheduler, "scheduler")
    for scales, steps in _fits(config):
        optimizer = partial(try_optimizer, path, options.optimizer, scales)
        optimizer()
        if options.scheduler is not None:
            groups = f", with {len(scales)} parameter groups" if len(scales) > 1 else ""
            note = f" (this run steps it {steps} times{groups})"
            try_scheduler("distill.scheduler", options.scheduler, optimizer, steps, note)


def _require_rate(path: str, node: Node, why: str) -> None:
    if "lr" not in node:
        raise UserError(f"Missing configuration key '{path}.lr': {why}")


def _fits(config: RunConfig) -> Iterator[tuple[list[float], int]]:
    """Relative rates of the parameter groups, and how often the schedule is stepped.

    For the student, and for its companion in stage (a), where there is one.
    """
    options, substitution = config.distill, config.substitution
    every = options.scheduler_steps or options.steps_per_epoch
    yield _scales(config.kdci), options.epochs * options.steps_per_epoch // every
    reads_student = getattr(target_of("baseline", config.baseline), "reads_student", False)
    if reads_student and substitution.mode != "online":
        rounds = max(0, substitution.rounds - substitution.warmup_rounds)
        yield [1.0], rounds * options.steps_per_round // every


def _scales(kdci: Kdci | None) -> list[float]:
    """An adjustment that learns has a parameter group of its own."""
    if kdci is None:
        return [1.0]
    space = kdci.dictionary.get("space", "logits")
    adjustment = try_adjustment("kdci.adjustment", kdci.adjustment, space)
    return [1.0, kdci.lr_scale] if any(True for _ in adjustment.parameters()) else [1.0]
