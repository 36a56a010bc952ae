"""DFQ: the game of student and generator under priors on the generator's images."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer

from src.dataset.contract import ImageSpec
from src.network.generator import ImageGenerator
from src.objective.adversarial import disagreement_loss
from src.substitution.generator import GeneratorBaseline
from src.substitution.priors import priors
from src.teacher.frozen import FrozenTeacher


class DFQ(GeneratorBaseline):
    """One round is one generator step on a weighted sum of four losses.

    ``L_G = w_adv L_adv + w_bn L_bn + w_oh L_oh + w_ie L_ie``, where ``L_adv = -KL(T || S)`` has no
    mask and gradients through both networks; L_bn compares the batch's statistics with the
    teacher's, L_oh asks for confident and L_ie for balanced predictions.

    Args:
        generator: Makes the generator from ``image_size`` and ``channels``.
        optimizer: Makes the generator's optimiser from parameters.
        batch_size: Images of a generator step, and of a batch that is recorded.
        adversarial_weight: w_adv.
        bn_weight: w_bn.
        one_hot_weight: w_oh.
        balance_weight: w_ie, for natural logarithms.
        sampling_mode: Mode of the generator's BN while it feeds the student.

    Differs from the paper, which is about quantisation and has no public code: L_bn is a distance
    of means and variances instead of a divergence of Gaussians, as CMI and Fast run it in their
    tables of distillation.

    Source: Choi et al., Data-Free Network Quantization With Adversarial Knowledge Distillation,
    CVPR Workshops 2020, arXiv:2005.04136; protocol: Fang et al., IJCAI 2021, arXiv:2105.08584.
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
        adversarial_weight: NonNegativeFloat,
        bn_weight: NonNegativeFloat,
        one_hot_weight: NonNegativeFloat,
        balance_weight: NonNegativeFloat,
        sampling_mode: Literal["train", "eval"] = "eval",
        temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(
            teacher=teacher,
            spec=spec,
            generator=generator,
            optimizer=optimizer,
            batch_size=batch_size,
            sampling_mode=sampling_mode,
            temperature=temperature,
        )
        self.weights = {
            "adversarial": adversarial_weight,
            "bn": bn_weight,
            "one_hot": one_hot_weight,
            "balance": balance_weight,
        }

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """One generator step; without a student there is no adversarial term."""
        self.generator.train()
        images = self.to_teacher(self.generate(self.batch_size))
        logits, terms = priors(self.teacher, images)
        if student is not None:
            terms["adversarial"] = disagreement_loss(student(images), logits)
        return self.step(terms, self.weights)
