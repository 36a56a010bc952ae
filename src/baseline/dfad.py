"""DFAD: the game of student and generator over the distance of their logits."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from src.dataset.contract import ImageSpec
from src.network.generator import ImageGenerator
from src.objective.distillation import LogitDistanceObjective, logit_distance
from src.substitution.generator import GeneratorBaseline
from src.teacher.frozen import FrozenTeacher

_WEIGHTS = {"adversarial": 1.0}
_DECAY = 0.1
Share = Annotated[float, Field(ge=0, le=1)]


class DFAD(GeneratorBaseline):
    """One round is one generator step on ``L_G = -mean |S(G(z)) - T(G(z))|``.

    Gradients go through both networks. The student lowers the same distance; it is in train mode
    in the generator's step, too, and the generator in train mode while it feeds the student. Its
    last BN whitens the images.

    Args:
        generator: Makes the generator from ``image_size`` and ``channels``.
        optimizer: Makes the generator's optimiser from parameters.
        batch_size: Images of a generator step, and of a batch that is recorded.
        total_rounds: Rounds of stage (a).
        decay_after: Shares of these after which the generator's rate falls to a tenth.
        sampling_mode: Mode of the generator's BN while it feeds the student.
        whitened: Whether the generator's images are in the teacher's input space already.

    Differs from the authors' code: the generator moves before the student's steps of a round, not
    after them.

    Source: Fang et al., Data-Free Adversarial Distillation, 2019, arXiv:1912.11006.
    """

    student_mode: ClassVar[Literal["eval", "train"]] = "train"
    reads_student: ClassVar[bool] = True

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        generator: Callable[..., ImageGenerator],
        optimizer: partial[Optimizer],
        batch_size: PositiveInt,
        total_rounds: PositiveInt,
        decay_after: Sequence[Share] = (0.2, 0.4),
        sampling_mode: Literal["train", "eval"] = "train",
        whitened: bool = True,
    ) -> None:
        super().__init__(
            teacher=teacher,
            spec=spec,
            generator=generator,
            optimizer=optimizer,
            batch_size=batch_size,
            sampling_mode=sampling_mode,
            whitened=whitened,
        )
        self.schedule = LambdaLR(
            self.optimizer,
            lambda done: _DECAY ** sum(done >= share * total_rounds for share in decay_after),
        )

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """One generator step; without a student there is nothing to differ from, and none."""
        if student is None:
            return {"adversarial": self.normalisation.mean.new_zeros(())}
        self.generator.train()
        images = self.to_teacher(self.generate(self.batch_size))
        terms = {"adversarial": -logit_distance(student(images), self.teacher(images).logits)}
        found = self.step(terms, _WEIGHTS)
        self.schedule.step()
        return found

    def objective(self) -> nn.Module:
        """The distance of the logits, which the student lowers."""
        return LogitDistanceObjective()

    def get_extra_state(self) -> dict[str, Any]:
        """Optimiser and its schedule."""
        return {"optimizers": super().get_extra_state(), "schedule": self.schedule.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load them."""
        super().set_extra_state(state["optimizers"])
        self.schedule.load_state_dict(state["schedule"])
