"""ZSKT: a generator that looks for where student and teacher differ, and nothing else."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer

from src.dataset.contract import ImageSpec
from src.network.generator import ImageGenerator
from src.objective.adversarial import disagreement_loss
from src.objective.attention_transfer import AttentionTransferObjective
from src.substitution.generator import GeneratorBaseline
from src.teacher.frozen import FrozenTeacher

_WEIGHTS = {"adversarial": 1.0}


class ZSKT(GeneratorBaseline):
    """One round is one generator step on ``L_G = -KL(T(G(z)) || S(G(z)))``.

    Gradients go through both networks. There is no prior on classes or statistics: what is shown
    of each class is what the game leaves.

    Args:
        generator: Makes the generator from ``image_size`` and ``channels``.
        optimizer: Makes the generator's optimiser from parameters.
        batch_size: Images of a generator step, and of a batch that is recorded.
        attention_weight: beta of attention transfer in the student's loss; 250 as published.
        sampling_mode: Mode of the generator's BN while it feeds the student.
        whitened: Whether the generator's images are in the teacher's input space already.

    Differs from the paper: fresh latents for every student step and no attention transfer unless
    it is asked for, as CMI and Fast run it in their tables. The authors took ten student steps on
    one batch, and kept the student in train mode.

    Source: Micaelli and Storkey, Zero-shot Knowledge Transfer via Adversarial Belief Matching,
    NeurIPS 2019, arXiv:1905.09768; protocol: Fang et al., IJCAI 2021, arXiv:2105.08584.
    """

    reads_student: ClassVar[bool] = True

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        generator: Callable[..., ImageGenerator],
        optimizer: partial[Optimizer],
        batch_size: PositiveInt,
        attention_weight: NonNegativeFloat = 0.0,
        sampling_mode: Literal["train", "eval"] = "eval",
        whitened: bool = False,
        temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(
            teacher=teacher,
            spec=spec,
            generator=generator,
            optimizer=optimizer,
            batch_size=batch_size,
            sampling_mode=sampling_mode,
            whitened=whitened,
            temperature=temperature,
        )
        self.attention_weight = attention_weight

    @classmethod
    def compares_maps(cls, options: Mapping[str, Any]) -> bool:
        """With attention transfer."""
        return bool(options.get("attention_weight"))

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """One generator step; without a student there is nothing to differ from, and none."""
        if student is None:
            return {"adversarial": self.normalisation.mean.new_zeros(())}
        self.generator.train()
        images = self.to_teacher(self.generate(self.batch_size))
        terms = {"adversarial": disagreement_loss(student(images), self.teacher(images).logits)}
        return self.step(terms, _WEIGHTS)

    def objective(self) -> nn.Module:
        """KL, and attention transfer where it has a weight."""
        if not self.attention_weight:
            return super().objective()
        return AttentionTransferObjective(self.temperature, self.attention_weight)
