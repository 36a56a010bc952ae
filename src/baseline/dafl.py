"""DAFL: a generator that the teacher finds confident, active and balanced."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer

from src.common.errors import UserError
from src.dataset.contract import ImageSpec
from src.network.generator import ImageGenerator
from src.objective.inversion import activation_loss, balance_loss, one_hot_loss
from src.substitution.generator import GeneratorBaseline
from src.teacher.frozen import FrozenTeacher


class DAFL(GeneratorBaseline):
    """One round is one generator step on ``L_G = w_oh L_oh + w_ie L_ie + w_a L_a``.

    Two protocols exist. The original (``protocol=shared_batch``) distils on the very batch that
    the generator was just trained with, 1 G : 1 S, generator in train mode, images whitened by
    the generator's last BN and fed as they are. The later one (``fresh_batch``) takes 1 G : 5 S
    steps on fresh latents, images in [0, 1] normalised with the data set's statistics.

    Args:
        generator: Makes the generator from ``image_size`` and ``channels``.
        optimizer: Makes the generator's optimiser from parameters.
        batch_size: Images of a generator step, and of a batch that is recorded.
        one_hot_weight: w_oh.
        balance_weight: w_ie; belongs to ``balance_log_base``.
        activation_weight: w_a.
        balance_log_base: 10 in the original, e in the later protocol.
        protocol: See above.
        sampling_mode: Mode of the generator's BN while it feeds the student.
        whitened: Whether the generator's images are in the teacher's input space already.

    Differs from the paper: L_ie has no factor 1/C and the original's log base is 10, L_a is also
    averaged over the feature width; both as in the released code that made the published numbers.

    Source: Chen et al., Data-Free Learning of Student Networks, ICCV 2019, arXiv:1904.01186;
    later protocol: Fang et al., IJCAI 2021, arXiv:2105.08584.
    """

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        generator: Callable[..., ImageGenerator],
        optimizer: partial[Optimizer],
        batch_size: PositiveInt,
        one_hot_weight: NonNegativeFloat,
        balance_weight: NonNegativeFloat,
        activation_weight: NonNegativeFloat,
        balance_log_base: Annotated[float, Field(gt=1)] = math.e,
        protocol: Literal["shared_batch", "fresh_batch"] = "fresh_batch",
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
        self.weights = {
            "one_hot": one_hot_weight,
            "balance": balance_weight,
            "activation": activation_weight,
        }
        self.balance_log_base = balance_log_base
        self.shares_batch = protocol == "shared_batch"
        self.last_batch: Tensor | None = None

    @classmethod
    def largest_sample(cls, options: Mapping[str, Any]) -> int | None:
        """Those of a batch, where it is shared with the student."""
        return options["batch_size"] if options.get("protocol") == "shared_batch" else None

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """One generator step; DAFL never looks at the student."""
        self.generator.train()
        images = self.to_teacher(self.generate(self.batch_size))
        output = self.teacher(images)
        terms = {
            "one_hot": one_hot_loss(output.logits),
            "balance": balance_loss(output.logits, self.balance_log_base),
            "activation": activation_loss(output.features),
        }
        found = self.step(terms, self.weights)
        if self.shares_batch:
            self.last_batch = images.detach()
        return found

    def sample(self, n: int) -> Tensor:
        """Fresh images, or the first ``n`` of the batch that the generator was trained with.

        Raises:
            UserError: If that batch is smaller than ``n``.
        """
        if self.last_batch is None:
            return super().sample(n)
        if n > len(self.last_batch):
            raise UserError(
                f"Expected distill.batch_size <= baseline.batch_size={len(self.last_batch)} with "
                f"baseline.protocol=shared_batch, but got {n} (of each rank)"
            )
        return self.last_batch[:n]

    def fresh(self, n: int) -> Tensor:
        """Images of fresh latents, whatever the protocol."""
        return super().sample(n)

    def get_extra_state(self) -> dict[str, Any]:
        """Optimiser and the batch that is shared with the student."""
        return {"optimizers": super().get_extra_state(), "last_batch": self.last_batch}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load them."""
        super().set_extra_state(state["optimizers"])
        batch = state["last_batch"]
        self.last_batch = None if batch is None else batch.to(self.device)
