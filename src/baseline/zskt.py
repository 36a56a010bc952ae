"""ZSKT: a generator that looks for where student and teacher differ, and nothing else."""

from typing import ClassVar

from torch import Tensor, nn

from src.objective.adversarial import disagreement_loss
from src.substitution.generator import GeneratorBaseline

_WEIGHTS = {"adversarial": 1.0}


class ZSKT(GeneratorBaseline):
    """One round is one generator step on ``L_G = -KL(T(G(z)) || S(G(z)))``.

    Gradients go through both networks. There is no prior on classes or statistics: what is shown
    of each class is what the game leaves.

    Differs from the paper: fresh latents for every student step and no attention transfer, as CMI
    and Fast run it in their tables. The authors took ten student steps on one batch, and kept the
    student in train mode.

    Source: Micaelli and Storkey, Zero-shot Knowledge Transfer via Adversarial Belief Matching,
    NeurIPS 2019, arXiv:1905.09768; protocol: Fang et al., IJCAI 2021, arXiv:2105.08584.
    """

    reads_student: ClassVar[bool] = True

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """One generator step; without a student there is nothing to differ from, and none."""
        if student is None:
            return {"adversarial": self.normalisation.mean.new_zeros(())}
        self.generator.train()
        images = self.to_teacher(self.generate(self.batch_size))
        terms = {"adversarial": disagreement_loss(student(images), self.teacher(images).logits)}
        return self.step(terms, _WEIGHTS)
