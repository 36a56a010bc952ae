"""What stage (a) asks of a method."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from src.common.finite import require_finite
from src.common.freezing import frozen, mode
from src.dataset.contract import ImageSpec
from src.dataset.normalisation import Normalisation
from src.objective.distillation import DistillationObjective
from src.substitution.image_bank import ImageBank, banks_of, files_of
from src.substitution.row_store import RowStore
from src.teacher.frozen import FrozenTeacher


class Extent(NamedTuple):
    """How much stage (a) does, over all ranks.

    Attributes:
        rounds: Its rounds, in each of which all ranks together make a batch.
        num_images: Images that a generator records.
        pool: Images of the unlabeled pool at most; None if that is not known.
    """

    rounds: int
    num_images: int
    pool: int | None


class Baseline(nn.Module, ABC):
    """A source of substitution data: a generator or a sampler.

    Promises, tested for every method: the teacher stays bit-identical; ``refresh`` leaves the
    student's parameters and gradients alone, and moves its BN buffers only if ``student_mode``
    is ``"train"`` or the method says so; state lives in buffers, sub-modules, optimisers and
    stores, so that saving and loading reproduces the next ``sample``. All randomness comes from
    torch's global generator, which the fit seeds per rank.

    Args:
        teacher: The frozen teacher; kept outside this module's state.
        spec: Geometry and statistics of the images the teacher expects.
        temperature: Temperature of the student's distillation loss.
    """

    student_mode: ClassVar[Literal["eval", "train"]] = "eval"  # in which a round begins
    reads_student: ClassVar[bool] = False
    reads_pool: ClassVar[bool] = False
    reads_statistics: ClassVar[bool] = False  # of the teacher's BatchNorm layers

    teacher: FrozenTeacher

    def __init__(
        self, *, teacher: FrozenTeacher, spec: ImageSpec, temperature: float = 1.0
    ) -> None:
        super().__init__()
        # Not a sub-module: its weights belong neither in our checkpoints nor to our optimisers.
        object.__setattr__(self, "teacher", teacher)
        self.spec = spec
        self.temperature = temperature
        self.normalisation = Normalisation.of(spec)

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        """How many images each bank will have at most, by what decides on it, in words.

        An entry for each of :meth:`substitution_data`, in its order, over all ranks. Only to
        refuse early what cannot end well: nothing where it is not known.

        Args:
            options: Arguments of the constructor, of the configuration or by default.
            extent: How much stage (a) does.
        """
        return {}

    @classmethod
    def compares_maps(cls, options: Mapping[str, Any]) -> bool:
        """Whether the student's loss sets its stage maps against the teacher's, size by size.

        Only to refuse networks that do not match before either is trained.

        Args:
            options: Arguments of the constructor, of the configuration or by default.
        """
        return False

    @classmethod
    def largest_sample(cls, options: Mapping[str, Any]) -> int | None:
        """How many images :meth:`sample` can give, over all ranks; None: as many as are wanted.

        Only to refuse larger batches before a teacher is trained.

        Args:
            options: Arguments of the constructor, of the configuration or by default.
        """
        return None

    @classmethod
    def weighs_maps(cls, options: Mapping[str, Any]) -> bool:
        """Whether that loss weighs the last of them by the last layer, which must read all of it.

        Only to refuse networks that cannot be so used before either is trained.

        Args:
            options: Arguments of the constructor, of the configuration or by default.
        """
        return False

    @abstractmethod
    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """Advance stage (a) by one round; return its loss terms, scalars, detached.

        Args:
            student: The student as it stands, or None: no student yet, no adversarial term.
        """

    @abstractmethod
    def sample(self, n: int) -> Tensor:
        """Draw ``n`` substitution images ``[n, C, H, W]`` as the teacher expects them.

        Detached, augmented as the method does, on this module's device.
        """

    def fresh(self, n: int) -> Tensor:
        """The same, other ones at every call: for methods that may show one batch repeatedly."""
        return self.sample(n)

    def substitution_data(self) -> list[ImageBank]:
        """Everything recorded so far: all banks within; a batch takes an equal share of each."""
        return list(banks_of(self).values())

    def harvest(self, n: int) -> None:
        """Record ``n`` images; only generators that keep no bank of their own need to."""

    @property
    def keeps_images(self) -> bool:
        """Whether all images that students see lie in its banks, as they do without a harvest."""
        return type(self).harvest is Baseline.harvest

    def objective(self) -> nn.Module:
        """A new loss for a student of this method, ``(output, teacher_logits) -> scalar``.

        One with a class attribute ``reads_maps = True`` finds the student's stage maps in
        ``output.maps``, and the teacher's in a third argument; with ``reads_slopes = True``, too,
        how the predicted class rises with the teacher's maps in a fourth.
        """
        return DistillationObjective(self.temperature)

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Optimisers that outlive a round, by name."""
        return {}

    def networks(self) -> list[nn.Module]:
        """Networks that outlive a round: equal on all ranks, gradients averaged."""
        return [child for child in self.children() if not isinstance(child, RowStore)]

    def require_finite(self) -> None:
        """Make sure that nothing which outlives a round is broken; waits for the device.

        Raises:
            FloatingPointError: If a weight or a row of a store is NaN or infinite.
        """
        name = type(self).__name__
        for network in self.networks():
            require_finite(network, f"{type(network).__name__} of {name}")
        for store in files_of(self).values():
            store.require_finite(name)

    def get_extra_state(self) -> dict[str, Any]:
        """States of the optimisers."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers().items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load the states of the optimisers."""
        for name, optimizer in self.optimizers().items():
            optimizer.load_state_dict(state[name])

    @property
    def device(self) -> torch.device:
        """Where images are made."""
        return self.normalisation.mean.device


def advance(baseline: Baseline, student: nn.Module | None) -> dict[str, Tensor]:
    """One round, with the student in the mode the method wants and its weights frozen.

    Gradients still flow through the student to the images; the reference implementations also
    compute those of its weights and throw them away.

    Autocast keeps no copies of weights from here on, until it is left: a round has many steps.
    """
    torch.set_autocast_cache_enabled(False)
    if student is None:
        return baseline.refresh(None)
    with mode(student, baseline.student_mode == "train"), frozen(student):
        return baseline.refresh(student)


class Companion(Protocol):
    """A vanilla student trained alongside stage (a), for methods that read the student."""

    @property
    def network(self) -> nn.Module:
        """The student."""

    def learn(self, baseline: Baseline) -> dict[str, Tensor]:
        """Take the student steps of one round on ``baseline.sample``; return the losses."""
