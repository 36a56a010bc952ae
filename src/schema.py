"""The composed configuration, checked before any work starts.

Plain groups are pydantic models. A node with ``_target_`` is checked against the signature of
the class that it names: the constructor is its schema.
"""

import inspect
import typing
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from src.common.errors import UserError, nearest
from src.signature import Node, check_node

VANILLA = "none"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Substitution(_Model):
    """Stage (a)."""

    mode: Literal["replay", "online"]
    rounds: PositiveInt
    num_images: PositiveInt
    record_from: float = Field(ge=0, le=1)
    warmup_rounds: NonNegativeInt
    log_every: PositiveInt


class Distill(_Model):
    """Stage (b)."""

    epochs: PositiveInt
    steps_per_epoch: PositiveInt
    steps_per_round: PositiveInt
    batch_size: PositiveInt
    objective_lr: PositiveFloat
    scheduler_steps: PositiveInt | None
    optimizer: Node
    scheduler: Node | None


class TeacherFit(_Model):
    """Training of a teacher."""

    epochs: PositiveInt
    batch_size: PositiveInt
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
    seed: NonNegativeInt
    fit: TeacherFit


class Student(_Model):
    """The student."""

    name: str
    network: Node


class Kdci(_Model):
    """The compensation; absent with ``kdci=none``."""

    name: str
    N: PositiveInt
    space: Literal["logits", "features"]
    pca_dim: PositiveInt | None
    prototypes: Literal["kmeans", "random"]
    prior: Literal["proportion", "uniform"]
    attention: Literal["additive", "dot", "cosine", "uniform", "random"]
    attention_dim: PositiveInt
    fusion: Literal["residual", "linear"]
    projection: Literal["learned", "identity"]
    expectation: Literal["geometric", "arithmetic"]
    strength: NonNegativeFloat
    renormalise: bool
    lr_scale: NonNegativeFloat
    iterations: PositiveInt
    restarts: PositiveInt
    refresh_every: PositiveInt | None

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
    devices: PositiveInt
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
    seed: NonNegativeInt
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
    """Check a resolved configuration.

    Raises:
        UserError: For the first wrong key: its name, its value, what is allowed, and for an
            unknown key the nearest name.
    """
    if config["kdci"]["name"] == VANILLA:
        config = {**config, "kdci": None}
    try:
        checked = RunConfig.model_validate(config)
    except ValidationError as error:
        raise UserError(_describe(error)) from error
    nodes = {
        "dataset": checked.dataset,
        "pool": checked.pool,
        "baseline": checked.baseline,
        "teacher.network": checked.teacher.network,
        "teacher.fit.optimizer": checked.teacher.fit.optimizer,
        "student.network": checked.student.network,
        "distill.optimizer": checked.distill.optimizer,
        "distill.scheduler": checked.distill.scheduler or {},
    }
    for path, node in nodes.items():
        if node:
            check_node(path, node)
    return checked


def _describe(error: ValidationError) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model: Any = RunConfig
        for part in first["loc"][:-1]:
            model = _model_of(model.model_fields[str(part)].annotation)
        return (
            f"Unknown configuration key '{path}'{nearest(path.split('.')[-1], model.model_fields)}"
        )
    if first["type"] == "missing":
        return f"Missing configuration key '{path}'"
    if first["type"] == "value_error":
        return f"Wrong configuration: {first['ctx']['error']}"
    rule = first["msg"].replace("Input should be", "expected")
    return f"Wrong value of '{path}': {rule}, but got {first['input']!r}"


def _model_of(annotation: Any) -> Any:
    options = [annotation, *typing.get_args(annotation)]
    return next(o for o in options if inspect.isclass(o) and issubclass(o, BaseModel))
