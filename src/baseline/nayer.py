"""NAYER: a generator of class embeddings, whose noise is a layer that is drawn anew."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim import Adam

from src.common.arrays import open_array
from src.common.distributed import (
    average_gradients,
    broadcast_module,
    own_places,
    rank,
    world_size,
)
from src.common.errors import UserError
from src.common.seeding import global_generator
from src.dataset.contract import ImageSpec
from src.network.generator import Generator
from src.objective.adversarial import decision_disagreement_loss
from src.objective.inversion import BNStatistics, bn_statistics_loss, class_loss
from src.objective.precision import backward
from src.objective.weighted import weighted_sum
from src.substitution.contract import Baseline, Extent
from src.substitution.image_bank import ImageBank
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import BNTap, tap

_BETAS = (0.5, 0.999)
_LOOPS, _WARMUP_LOOPS = 2, 10
_TEACHER_HEAD, _ONE_HOT = "teacher_head", "one_hot"


class NAYER(Baseline):
    """A round makes a few batches, each by k steps of the generator and of layers of noise.

    The generator sees embeddings e_y of wanted classes y, normalised over the batch; between the
    two stand layers ``W_j e + b_j`` with ``W_j ~ N(0, 1)``, drawn anew for every batch, one for
    each full set of classes in it. Every step lowers
    ``L = w_bn L_bn + w_oh CE(T(x), y) + w_adv L_adv``; the batch of the lowest loss goes to the
    bank, and the layers of noise are thrown away. L_adv is off in the rounds of the warm-up.
    The student is in eval mode for the first batch of a round and in train mode for the others,
    whose statistics move its BN, as in the released code that made the published numbers.

    Args:
        generator: Makes the generator from ``image_size`` and ``channels``; its latents are
            vectors of the width of the layers of noise.
        batch_size: Images of a batch, N.
        inner_steps: k.
        generator_lr: Learning rate of an Adam that is new for every batch.
        class_weight: w_oh.
        bn_weight: w_bn.
        adversarial_weight: w_adv.
        bn_momentum: Share of the earlier batches' statistics in L_bn.
        loops: Batches of a round.
        warmup_loops: Batches of a round of the warm-up.
        warmup_rounds: Rounds before the student starts.
        renew_every: Rounds after which the generator starts anew; counted from the first round,
            and from the end of the warm-up too.
        embedding: ``teacher_head``, the centred rows of the teacher's last layer; ``one_hot``; or
            the name of an ``.npy`` file with a row for each class, such as of a text encoder.

    Differs from the authors' code: their embeddings are CLIP's of the prompt "a image of <class>",
    which a file can hold; the default needs neither a file nor another network. Each rank draws
    layers of noise of its own. While the bank grows, students draw from it with replacement
    instead of in shuffled passes.

    Source: Tran et al., NAYER: Noisy Layer Data Generation for Efficient and Effective Data-free
    Knowledge Distillation, CVPR 2024, arXiv:2310.00258.
    """

    reads_student: ClassVar[bool] = True
    reads_statistics: ClassVar[bool] = True

    embeddings: Tensor

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        generator: Callable[..., Generator],
        batch_size: PositiveInt,
        inner_steps: PositiveInt,
        generator_lr: PositiveFloat,
        class_weight: NonNegativeFloat,
        bn_weight: NonNegativeFloat,
        adversarial_weight: NonNegativeFloat,
        bn_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        loops: PositiveInt = _LOOPS,
        warmup_loops: PositiveInt = _WARMUP_LOOPS,
        warmup_rounds: NonNegativeInt = 20,
        renew_every: PositiveInt = 10,
        embedding: str = _TEACHER_HEAD,
        temperature: PositiveFloat = 20.0,
    ) -> None:
        super().__init__(teacher=teacher, spec=spec, temperature=temperature)
        self.generator = generator(image_size=spec.image_size, channels=spec.channels)
        if len(self.generator.latent_shape) != 1:
            raise UserError(
                "Expected baseline.generator to take vectors, which layers of noise make, but got "
                f"{type(self.generator).__name__} with latents "
                f"{list(self.generator.latent_shape)}; take src.network.generator.Generator"
            )
        self.register_buffer("embeddings", _embeddings(embedding, teacher, spec.num_classes))
        self.norm = nn.BatchNorm1d(self.embeddings.shape[1])
        self.batch_size, self.inner_steps = batch_size, inner_steps
        self.generator_lr, self.bn_momentum = generator_lr, bn_momentum
        self.weights = {"class": class_weight, "bn": bn_weight, "adversarial": adversarial_weight}
        self.loops, self.warmup_loops = loops, warmup_loops
        self.warmup_rounds, self.renew_every = warmup_rounds, renew_every
        self.bank = ImageBank.of(spec, augmentation=spec.augmentation)
        self.smoothed: BNStatistics | None = None
        self.round = 0

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        """Some batches a round."""
        batches = max(options.get("loops", _LOOPS), options.get("warmup_loops", _WARMUP_LOOPS))
        most = extent.rounds * batches * options["batch_size"]
        return {"the rounds of stage (a)": most}

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """Make the batches of a round; the loss terms of the last step of the last of them."""
        if 0 in {at % self.renew_every for at in (self.round, self.round - self.warmup_rounds)}:
            self._renew()
        self.round += 1
        is_warmup = self.round <= self.warmup_rounds
        if is_warmup or not self.weights["adversarial"]:
            student = None
        self.generator.train()
        self.norm.train()
        terms: dict[str, Tensor] = {}
        for _ in range(self.warmup_loops if is_warmup else self.loops):
            terms = self._make_batch(student)
            if student is not None:
                student.train()  # until `advance` puts it back
        return {name: term.detach() for name, term in terms.items()}

    def _renew(self) -> None:
        """The initialisation of a new generator, in place; statistics of its BN layers, too."""
        for network in (self.generator, self.norm):
            for layer in network.modules():
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d):
                    layer.reset_parameters()
            broadcast_module(network)  # every rank has drawn its own

    def _make_batch(self, student: nn.Module | None) -> dict[str, Tensor]:
        labels, noise = self._labels(), self._noise()
        own = [*self.generator.parameters(), *self.norm.parameters()]
        optimizer = Adam([*own, *noise], lr=self.generator_lr, betas=_BETAS, fused=True)
        kept, lowest = self.embeddings.new_zeros(()), self.embeddings.new_full((), torch.inf)
        with tap(self.teacher) as heard:
            for _ in range(self.inner_steps):
                pixels = self.generator(self._latents(labels, *noise)).float()
                terms, statistics = self._terms(pixels, labels, heard, student)
                loss = weighted_sum(terms, self.weights)
                kept = torch.where(loss.detach() < lowest, pixels.detach(), kept)
                lowest = torch.minimum(lowest, loss.detach())
                optimizer.zero_grad()
                backward(loss)
                average_gradients(own)
                optimizer.step()
        self.smoothed = statistics.detached()
        self.bank.append(kept)
        return terms

    def _labels(self) -> Tensor:
        """Full sets of classes, one after another, and random classes for what remains.

        Of the batch of all ranks, of which this one has its part.
        """
        count, places = self.spec.num_classes, own_places(self.batch_size, self.device)
        in_sets = world_size() * self.batch_size // count * count
        dealt = places[: max(0, in_sets - rank() * self.batch_size)] % count
        rest = self.batch_size - len(dealt)
        return torch.cat([dealt, torch.randint(count, (rest,), device=self.device)])

    def _noise(self) -> tuple[Tensor, Tensor]:
        """New layers: weights ``[J, width, E]`` and biases ``[J, 1, width]``, one a set."""
        (width,) = self.generator.latent_shape
        sets, dim = -(-self.batch_size // self.spec.num_classes), self.embeddings.shape[1]
        weights = torch.randn(sets, width, dim, device=self.device, requires_grad=True)
        return weights, torch.zeros(sets, 1, width, device=self.device, requires_grad=True)

    def _latents(self, labels: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        """What the generator sees ``[N, width]``: every set of classes has a layer of its own."""
        rows: Tensor = self.norm(self.embeddings[labels])
        missing = len(weights) * self.spec.num_classes - len(rows)
        sets = nn.functional.pad(rows, (0, 0, 0, missing)).unflatten(0, (len(weights), -1))
        latents: Tensor = (sets @ weights.transpose(1, 2) + biases).flatten(0, 1)
        return latents[: len(rows)]

    def _terms(
        self, pixels: Tensor, labels: Tensor, heard: BNTap, student: nn.Module | None
    ) -> tuple[dict[str, Tensor], BNStatistics]:
        """Loss terms of one step, and the mixed statistics that they are made of."""
        view = self.spec.augmentation(pixels, global_generator(self.device))
        images = self.normalisation(view)
        logits = self.teacher(images).logits
        statistics = heard.statistics().smoothed(self.smoothed, self.bn_momentum)
        terms = {
            "class": class_loss(logits, labels),
            "bn": bn_statistics_loss(statistics, heard.target),
        }
        if student is not None:
            terms["adversarial"] = decision_disagreement_loss(student(images), logits)
        return terms, statistics

    def sample(self, n: int) -> Tensor:
        """Images of all rounds so far, augmented as in training."""
        return self.bank.draw(n, global_generator(self.device))

    def get_extra_state(self) -> dict[str, Any]:
        """Progress and the smoothed statistics."""
        smoothed = None if self.smoothed is None else list(self.smoothed)
        return {"round": self.round, "smoothed": smoothed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load them."""
        self.round = state["round"]
        saved = state["smoothed"]  # on the CPU, whatever computes
        self.smoothed = saved and BNStatistics(*(each.to(self.device) for each in saved))


def _embeddings(choice: str, teacher: FrozenTeacher, num_classes: int) -> Tensor:
    """A row for each class, ``[K, E]``."""
    if choice == _ONE_HOT:
        return torch.eye(num_classes)
    if choice == _TEACHER_HEAD:
        rows = teacher.network.head.weight.detach()
        return rows - rows.mean(0)
    expected = f"{_TEACHER_HEAD}, {_ONE_HOT} or an .npy file of {num_classes} rows of numbers"
    stored = open_array("baseline.embedding", choice, expected)
    is_table = stored.ndim == 2 and stored.dtype.kind in "fiu"
    if not is_table or len(stored) != num_classes or not np.isfinite(stored).all():
        raise UserError(
            f"Expected baseline.embedding='{choice}' to hold {num_classes} rows of finite "
            f"numbers, one for each class, but got {stored.dtype} {list(stored.shape)}"
        )
    return torch.from_numpy(stored.astype(np.float32))
