"""What methods share whose substitution images are those that one generator makes now."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.optim import Optimizer

from src.common.distributed import average_gradients
from src.common.freezing import mode
from src.dataset.contract import ImageSpec
from src.network.generator import ImageGenerator
from src.objective.precision import backward
from src.objective.weighted import weighted_sum
from src.substitution.contract import Baseline, Extent
from src.substitution.image_bank import ImageBank
from src.teacher.frozen import FrozenTeacher


class GeneratorBaseline(Baseline):
    """A generator, its optimiser, and the images that it makes of fresh latents.

    Args:
        teacher: The frozen teacher.
        spec: Geometry and statistics of the images the teacher expects.
        generator: Makes the generator from ``image_size`` and ``channels``.
        optimizer: Makes the generator's optimiser from parameters.
        batch_size: Images of a generator step, and of a batch that is recorded.
        sampling_mode: Mode of the generator's BN while it feeds the student.
        whitened: Whether the generator's images are in the teacher's input space already.
        temperature: Temperature of the student's distillation loss.
    """

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        generator: Callable[..., ImageGenerator],
        optimizer: partial[Optimizer],
        batch_size: PositiveInt,
        sampling_mode: Literal["train", "eval"] = "eval",
        whitened: bool = False,
        temperature: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(teacher=teacher, spec=spec, temperature=temperature)
        self.generator = generator(image_size=spec.image_size, channels=spec.channels)
        self.optimizer = optimizer(self.generator.parameters())
        self.batch_size = batch_size
        self.samples_in_train_mode, self.whitened = sampling_mode == "train", whitened
        self.bank = ImageBank.of(spec, pixels=not whitened)

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        """What a generator records."""
        return {"substitution.num_images": extent.num_images}

    def generate(self, n: int) -> Tensor:
        """What the generator makes of fresh latents: pixels, or whitened images."""
        latents = torch.randn(n, *self.generator.latent_shape, device=self.device)
        images: Tensor = self.generator(latents)
        return images

    def to_teacher(self, images: Tensor) -> Tensor:
        """The generator's images, float32, as the teacher expects them."""
        return images.float() if self.whitened else self.normalisation(images.float())

    def step(self, terms: Mapping[str, Tensor], weights: Mapping[str, float]) -> dict[str, Tensor]:
        """One step of the generator on the weighted sum of ``terms``, which return detached."""
        loss = weighted_sum(terms, weights)
        self.optimizer.zero_grad()
        backward(loss)
        average_gradients(self.generator.parameters())
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Fresh images."""
        with mode(self.generator, self.samples_in_train_mode):
            return self.to_teacher(self.generate(n))

    @torch.no_grad()
    def harvest(self, n: int) -> None:
        """Record ``n`` images, made in whole batches so that batch-mode BN sees full ones."""
        with mode(self.generator, self.samples_in_train_mode):
            while n > 0:
                self.bank.append(self.generate(self.batch_size)[:n])
                n -= self.batch_size

    def optimizers(self) -> Mapping[str, Optimizer]:
        """The generator's."""
        return {"generator": self.optimizer}
