"""The composed configuration, checked before any work starts.

Plain groups are pydantic models. A node with ``_target_`` is checked against the signature of
the class that it names: the constructor is its schema.
"""

import inspect
import typing
from collections.abc import Mapping
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

from src.common.errors import UserError, nearest
from src.signature import (
    LARGEST_BATCH,
    LARGEST_COUNT,
    Node,
    check_node,
    refuse_non_finite,
    shown,
    target_of,
    try_optimizer,
    try_scheduler,
)

VANILLA = "none"
# Generous bounds: a value beyond them is a slip that would fill the memory or never end.
Count = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
"""Of steps, rounds, epochs and images."""
CountOrNone = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
"""Of what may also be absent."""
BatchSize = Annotated[int, Field(gt=0, le=LARGEST_BATCH)]
"""Images a step."""
Width = Annotated[int, Field(gt=0, le=65_536)]
"""Of a hidden layer."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What every generator of random numbers takes."""
# Keys whose values are chosen as a whole: where the options are, and how one is chosen.
_GROUPS = {
    **{name: name for name in ("dataset", "baseline", "teacher", "student", "kdci")},
    **{name: name for name in ("trainer", "logger", "paths")},
    "pool": "dataset@pool",
}
_TEACHER_TRIAL_STEPS = 100  # how many there will be depends on the images


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Substitution(_Model):
    """Stage (a)."""

    mode: Literal["replay", "online"]
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
    objective_lr: PositiveFloat
    scheduler_steps: Count | None
    optimizer: Node
    scheduler: Node | None


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
    expected_acc1: float | None = Field(ge=0, le=100)
    strict: bool
    seed: Seed
    fit: TeacherFit


class Student(_Model):
    """The student."""

    name: str
    network: Node


class Kdci(_Model):
    """The compensation; absent with ``kdci=none``."""

    name: Literal["backdoor"]
    N: int = Field(gt=0, le=1_000_000)
    space: Literal["logits", "features"]
    pca_dim: Width | None
    prototypes: Literal["kmeans", "random"]
    prior: Literal["proportion", "uniform"]
    attention: Literal["additive", "dot", "cosine", "uniform", "random"]
    attention_dim: Width
    fusion: Literal["residual", "linear"]
    projection: Literal["learned", "identity"]
    expectation: Literal["geometric", "arithmetic"]
    strength: NonNegativeFloat
    renormalise: bool
    lr_scale: NonNegativeFloat
    iterations: int = Field(gt=0, le=100_000)
    restarts: int = Field(gt=0, le=10_000)
    refresh_every: Count | None

    @model_validator(mode="after")
    def _in_logits(self) -> "Kdci":
        needs_logits = {
            "kdci.attention=cosine": self.attention == "cosine",
            "kdci.projection=identity": self.projection == "identity",
            "kdci.expectation=arithmetic": self.expectation == "arithmetic",
        }
        for option, chosen in needs_logits.items():
            if chosen and self.space != "logits":
                raise ValueError(f"{option} needs kdci.space=logits, but got '{self.space}'")
        return self


class TrainerOptions(_Model):
    """Device, precision and processes."""

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: int = Field(gt=0, le=4096)
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


class Paths(_Model):
    """Folders."""

    outputs: str
    cache: str
    data: str


class RunConfig(_Model):
    """A whole run."""

    task: Literal["distill", "teacher"]
    seed: Seed
    force: bool
    budget: Literal["paper", "laptop", "smoke"]
    dataset: Node
    pool: Node
    baseline: Node
    substitution: Substitution
    distill: Distill
    teacher: Teacher
    student: Student
    kdci: Kdci | None
    trainer: TrainerOptions
    logger: Logger
    paths: Paths

    @model_validator(mode="after")
    def _online_only(self) -> "RunConfig":
        every = self.kdci.refresh_every if self.kdci else None
        if every is not None and self.substitution.mode != "online":
            raise ValueError("kdci.refresh_every needs substitution.mode=online")
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
        raise UserError(_describe(error)) from error
    check_node("dataset", checked.dataset, "dataset")
    check_node("pool", checked.pool, "pool")
    check_node("baseline", checked.baseline, "baseline")
    check_node("teacher.network", checked.teacher.network, "network")
    check_node("student.network", checked.student.network, "network")
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
    optimizer = try_optimizer(path, fit.optimizer)
    node = schedules[fit.schedule]
    try_scheduler("teacher.fit.schedule", node, optimizer, _TEACHER_TRIAL_STEPS - 1)


def _check_distill(config: RunConfig) -> None:
    path, options = "distill.optimizer", config.distill
    check_node(path, options.optimizer, "optimizer")
    _require_rate(path, options.optimizer, "the student's parameter groups are made with it")
    if options.scheduler is not None:
        check_node("distill.scheduler", options.scheduler, "scheduler")
        optimizer = try_optimizer(path, options.optimizer)
        steps = _schedule_steps(config)
        note = f" (this run steps it {steps} times)"
        try_scheduler("distill.scheduler", options.scheduler, optimizer, steps, note)


def _require_rate(path: str, node: Node, why: str) -> None:
    if "lr" not in node:
        raise UserError(f"Missing configuration key '{path}.lr': {why}")


def _schedule_steps(config: RunConfig) -> int:
    """How often the schedule is stepped, by the student or by its companion in stage (a)."""
    options, substitution = config.distill, config.substitution
    every = options.scheduler_steps or options.steps_per_epoch
    steps = options.epochs * options.steps_per_epoch // every
    reads_student = getattr(target_of("baseline", config.baseline), "reads_student", False)
    if not reads_student or substitution.mode == "online":
        return steps
    rounds = max(0, substitution.rounds - substitution.warmup_rounds)
    return max(steps, rounds * options.steps_per_round // every)


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    path = ".".join(location)
    if first["type"] == "extra_forbidden":
        model: Any = RunConfig
        for part in location[:-1]:
            model = _model_of(model.model_fields[part].annotation)
        return f"Unknown configuration key '{path}'{nearest(location[-1], model.model_fields)}"
    if first["type"] == "missing":
        return f"Missing configuration key '{path}'{_cure(path)}"
    if first["type"] == "value_error":
        return f"Wrong configuration: {first['ctx']['error']}"
    rule = first["msg"].replace("Input should be", "expected")
    if first["type"] == "dict_type":
        rule = "expected a node with a `_target_`"
    if first["type"] == "model_type":
        rule = "expected a group of keys"
    cure = _cure(location[0]) if first["type"] in ("dict_type", "model_type") else ""
    if path == "kdci.name":
        cure = "; choose with kdci=backdoor or kdci=none"
    return f"Wrong value of '{path}': {rule}, but got {shown(first['input'])}{cure}"


def _cure(group: str) -> str:
    if group not in _GROUPS:
        return ""
    choice = _GROUPS[group]
    return f"; choose an option with {choice}=..., see conf/{choice.split('@')[0]}"


def _model_of(annotation: Any) -> Any:
    options = [annotation, *typing.get_args(annotation)]
    return next(o for o in options if inspect.isclass(o) and issubclass(o, BaseModel))
