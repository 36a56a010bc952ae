"""CuDFKD: a generator that turns against the student by and by, a student that paces itself."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer

from src.common.errors import UserError
from src.dataset.contract import ImageSpec
from src.network.generator import ImageGenerator, reinitialise
from src.objective.adversarial import decision_disagreement_loss
from src.objective.self_paced import SelfPacedObjective
from src.substitution.generator import GeneratorBaseline
from src.substitution.priors import priors
from src.teacher.frozen import FrozenTeacher

_ADVERSARIAL_TEMPERATURE = 3.0


class CuDFKD(GeneratorBaseline):
    """One round is one generator step on a weighted sum of four losses, one of which grows.

    ``L_G = a(r) L_adv + w_bn L_bn + w_oh L_oh + w_ie L_ie``: L_adv = -KL(T || S) at temperature
    3 of the images on which the two decide alike, with gradients through both networks; L_ie asks
    for balanced predictions of the teacher at ``temperature``. a(r) is constant, rises along a
    line and is constant again.

    Args:
        generator: Makes the generator from ``image_size`` and ``channels``.
        optimizer: Makes the generator's optimiser from parameters.
        batch_size: Images of a generator step, and of a batch that is recorded.
        total_rounds: Rounds of stage (a).
        adversarial_weight: a of the first round.
        adversarial_rise: What a has gained in the end.
        rise_begins: Share of the rounds before a rises.
        rise_ends: Share of the rounds after which it is whole.
        bn_weight: w_bn.
        one_hot_weight: w_oh.
        balance_weight: w_ie, for natural logarithms.
        temperature: Of the teacher in L_ie, and of both in the student's ``kl``.
        distance: The student's loss of an image, see
            :class:`src.objective.self_paced.SelfPacedObjective`.
        initial_age: lambda of the student's first step.
        growth: What a student step adds to it.
        paces: What has a weight of its own.
        sampling_mode: Mode of the generator's BN while it feeds the student.

    Differs from the authors' code: a rises every round, not by a step after each of its epochs
    of 40 rounds, so that a budget of any length has the whole rise.

    Source: Li et al., Dynamic Data-Free Knowledge Distillation by Easy-to-Hard Learning Strategy,
    Information Sciences, 2023, arXiv:2208.13648.
    """

    reads_student: ClassVar[bool] = True
    reads_statistics: ClassVar[bool] = True

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        generator: Callable[..., ImageGenerator],
        optimizer: partial[Optimizer],
        batch_size: PositiveInt,
        total_rounds: PositiveInt,
        adversarial_weight: NonNegativeFloat,
        adversarial_rise: NonNegativeFloat,
        rise_begins: NonNegativeFloat,
        rise_ends: PositiveFloat,
        bn_weight: NonNegativeFloat,
        one_hot_weight: NonNegativeFloat,
        balance_weight: NonNegativeFloat,
        temperature: PositiveFloat,
        distance: Literal["l1", "kl"],
        initial_age: float,
        growth: NonNegativeFloat,
        paces: Literal["batch", "image"] = "batch",
        sampling_mode: Literal["train", "eval"] = "eval",
    ) -> None:
        if not rise_begins < rise_ends <= 1:
            raise UserError(
                "Expected 0 <= baseline.rise_begins < baseline.rise_ends <= 1, shares of the "
                f"rounds of stage (a), but got {rise_begins} and {rise_ends}"
            )
        super().__init__(
            teacher=teacher,
            spec=spec,
            generator=generator,
            optimizer=optimizer,
            batch_size=batch_size,
            sampling_mode=sampling_mode,
            temperature=temperature,
        )
        reinitialise(self.generator)
        self.total_rounds, self.round = total_rounds, 0
        self.first_weight, self.rise = adversarial_weight, adversarial_rise
        self.rise_begins, self.rise_ends = rise_begins, rise_ends
        self.weights = {
            "bn": bn_weight,
            "one_hot": one_hot_weight,
            "balance": balance_weight,
        }
        self.objective_options: dict[str, Any] = {
            "distance": distance,
            "temperature": temperature,
            "initial_age": initial_age,
            "growth": growth,
            "paces": paces,
        }

    def adversarial_weight(self) -> float:
        """Weight a of the coming round."""
        gone = (self.round / self.total_rounds - self.rise_begins) / (
            self.rise_ends - self.rise_begins
        )
        return self.first_weight + self.rise * min(max(gone, 0.0), 1.0)

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """One generator step; without a student there is no adversarial term."""
        self.generator.train()
        images = self.to_teacher(self.generate(self.batch_size))
        logits, terms = priors(self.teacher, images, self.temperature)
        adversarial = self.adversarial_weight()
        self.round += 1
        if student is not None and adversarial:
            terms["adversarial"] = decision_disagreement_loss(
                student(images), logits, _ADVERSARIAL_TEMPERATURE
            )
        return self.step(terms, {**self.weights, "adversarial": adversarial})

    def objective(self) -> nn.Module:
        """The student's distance of the teacher, paced by itself."""
        return SelfPacedObjective(**self.objective_options)

    def get_extra_state(self) -> dict[str, Any]:
        """Optimiser and round."""
        return {"optimizers": super().get_extra_state(), "round": self.round}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load them."""
        super().set_extra_state(state["optimizers"])
        self.round = state["round"]
