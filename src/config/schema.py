"""The composed configuration's plain groups: which keys there are, and what values they take."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    model_validator,
)

from src.config.node import Node
from src.config.value import LARGEST_BATCH, LARGEST_COUNT
from src.report.project import project_name

# Generous bounds: a value beyond them is a slip that would fill the memory or never end.
Count = Annotated[int, Field(gt=0, le=LARGEST_COUNT)]
"""Of steps, rounds, epochs and images."""
CountOrNone = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
"""Of what may also be absent."""
BatchSize = Annotated[int, Field(gt=0, le=LARGEST_BATCH)]
"""Images a step."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What every generator of random numbers takes."""


def _partial(node: Node) -> Node:
    """The same, however it says that the program gives it more arguments, as it does anyway."""
    is_said = isinstance(node.get("_partial_", False), bool)  # else it is refused
    return {**node, "_partial_": True} if is_said else node


Factory = Annotated[Node, AfterValidator(_partial)]
"""Of what is built on an object that is made later."""


def _project(name: str) -> str:
    return project_name(name, "logger.wandb.project")


Project = Annotated[str, AfterValidator(_project)]
"""Of W&B."""


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
    optimizer: Factory
    scheduler: Factory | None


class Search(_Model):
    """What a sweep that chooses its own points is told of each."""

    objective: Literal["agreement", "acc1"]


class TeacherFit(_Model):
    """Training of a teacher."""

    epochs: Count
    batch_size: BatchSize
    label_smoothing: float = Field(ge=0, lt=1)
    schedule: Literal["one_cycle", "cosine"]
    optimizer: Factory


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
    sync_batch_norm: bool
    deterministic: bool
    progress: bool

    @property
    def ranks(self) -> int:
        """How many processes there are in all."""
        return self.devices * self.nodes


class Wandb(_Model):
    """Weights & Biases."""

    project: Project
    mode: Literal["online", "offline", "disabled"] | None
    entity: str | None
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]]


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
    """A whole run. Batch sizes are those of all its ranks together."""

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
    def _forced_runs_only(self) -> "RunConfig":
        if self.force and self.task == "teacher":
            raise ValueError(
                "force=true runs a finished run again, but task=teacher reuses the teacher that "
                "there is; leave it out, and for another teacher give another teacher.seed or "
                "remove its folder in paths.cache"
            )
        return self

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

    @model_validator(mode="after")
    def _batches_can_be_shared(self) -> "RunConfig":
        ranks = self.trainer.ranks
        for name, size in self._batch_sizes():
            if ranks == 1 and size < 2:
                raise ValueError(f"{name}={size}: BatchNorm needs two images at least")
            if size % ranks or size < 2 * ranks:
                raise ValueError(
                    f"{name}={size} is of all {ranks} ranks together, each of which takes an "
                    f"equal share, of two images at least; the nearest that can be shared is "
                    f"{max(2, round(size / ranks)) * ranks}"
                )
        return self

    def _batch_sizes(self) -> Iterator[tuple[str, int]]:
        """Those that the run reads; a plug-in's option of this name may be something else."""
        if self.task == "distill":
            yield "distill.batch_size", self.distill.batch_size
            if type(self.baseline.get("batch_size")) is int:
                yield "baseline.batch_size", self.baseline["batch_size"]
        if self.teacher.checkpoint is None:
            yield "teacher.fit.batch_size", self.teacher.fit.batch_size
