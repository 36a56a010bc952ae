"""FastDFKD: a generator that has learned to adapt to a new batch within a few steps."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from src.common.augment import Areas
from src.common.distributed import average_gradients, broadcast_module
from src.common.errors import UserError
from src.common.seeding import global_generator
from src.dataset.contract import ImageSpec
from src.network.generator import Generator, ImageGenerator
from src.objective.adversarial import decision_disagreement_loss
from src.objective.inversion import BNStatistics, bn_statistics_loss, class_loss
from src.objective.precision import backward
from src.objective.weighted import weighted_sum
from src.substitution.contract import Baseline, Extent
from src.substitution.image_bank import ImageBank
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import BNTap, tap

_BETAS = (0.5, 0.999)
_REPTILE_SCALE = 67.0
_RESET_STD = 0.02


class Fast(Baseline):
    """A round adapts a copy of the meta-generator, and latents, to one batch in k steps.

    Every inner step lowers ``L = w_oh CE(T(x), y) + w_bn L_bn + w_adv L_adv`` for random labels y.
    The batch of the lowest loss goes to the bank, the copy is thrown away, and the meta-generator
    moves by one Adam step: along the sum of all k inner gradients (``meta=maml``), or towards the
    adapted copy (``reptile``). With ``meta=none`` the generator itself is adapted and kept.

    Defaults fit images of 32 pixels. On ImageNet the authors kept spatial latents over rounds
    (``reinit_every``), moved by Reptile, and stored the last batch instead of the best.

    Args:
        generator: Makes the meta-generator from ``image_size`` and ``channels``.
        batch_size: Images a round.
        inner_steps: k.
        generator_lr: Learning rate of the copy; the inner Adam is new in every round.
        latent_lr: Learning rate of the latents.
        class_weight: w_oh.
        bn_weight: w_bn.
        adversarial_weight: w_adv.
        bn_momentum: Share of the earlier rounds' statistics in L_bn.
        warmup_rounds: Rounds before the student starts. Alongside stage (a), L_adv starts in the
            last of them; online, where they have no student, in the first round after them.
        meta: See above.
        meta_lr: Learning rate of the meta-generator; None takes k * generator_lr.
        reset_after: Rounds after the warm-up at which the meta-generator's first two layers are
            drawn anew, once; None never does, nor does ``meta=none``.
        keep: Batch of a round that is stored.
        reinit_every: Rounds over which latents are carried on before they are drawn anew, and the
            meta-generator's Adam with them; None draws new latents in every round.
        crop_scale: Least and greatest area of a resized crop that images pass before the teacher;
            None crops them out of their zero-padded selves.

    Differs from the paper: its adversarial term is the masked KL of the released code, and the
    meta-gradient sums the gradients before every inner step, where first-order MAML takes the one
    after the last. Students draw from the bank with replacement instead of in shuffled passes.

    Source: Fang et al., Up to 100x Faster Data-free Knowledge Distillation, AAAI 2022,
    arXiv:2112.06253.
    """

    reads_student: ClassVar[bool] = True
    reads_statistics: ClassVar[bool] = True

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        generator: Callable[..., ImageGenerator],
        batch_size: PositiveInt,
        inner_steps: PositiveInt,
        generator_lr: PositiveFloat,
        latent_lr: PositiveFloat,
        class_weight: NonNegativeFloat,
        bn_weight: NonNegativeFloat,
        adversarial_weight: NonNegativeFloat,
        bn_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9,
        warmup_rounds: NonNegativeInt = 20,
        meta: Literal["maml", "reptile", "none"] = "maml",
        meta_lr: PositiveFloat | None = None,
        reset_after: NonNegativeInt | None = 120,
        keep: Literal["best", "last"] = "best",
        reinit_every: PositiveInt | None = None,
        crop_scale: Areas | None = None,
        temperature: PositiveFloat = 20.0,
    ) -> None:
        super().__init__(teacher=teacher, spec=spec, temperature=temperature)
        self.generator = generator(image_size=spec.image_size, channels=spec.channels)
        self.batch_size, self.inner_steps = batch_size, inner_steps
        self.generator_lr, self.latent_lr = generator_lr, latent_lr
        self.weights = {"class": class_weight, "bn": bn_weight, "adversarial": adversarial_weight}
        self.bn_momentum, self.warmup_rounds = bn_momentum, warmup_rounds
        self.meta, self.keeps_best = meta, keep == "best"
        self.meta_lr = meta_lr or inner_steps * generator_lr
        self.reset_after = None if meta == "none" else reset_after
        self.reinit_every = reinit_every
        self.view = replace(spec.augmentation, scale=crop_scale)
        if self.reset_after is not None and not isinstance(self.generator, Generator):
            raise UserError(
                f"Expected baseline.generator to be a Generator with baseline.reset_after="
                f"{reset_after}, but got {type(self.generator).__name__}; set it to null"
            )
        self.meta_optimizer = self._new_meta_optimizer()
        self.bank = ImageBank.of(spec, augmentation=spec.augmentation)
        self.register_buffer("latents", self._new_latents() if reinit_every else None)
        self.smoothed: BNStatistics | None = None
        self.round = 0

    def _new_meta_optimizer(self) -> Adam:
        return Adam(self.generator.parameters(), lr=self.meta_lr, betas=_BETAS, fused=True)

    def _new_latents(self) -> Tensor:
        return torch.randn(self.batch_size, *self.generator.latent_shape, device=self.device)

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        """A batch a round."""
        return {"the rounds of stage (a)": extent.rounds * options["batch_size"]}

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """Make one batch and move the meta-generator; the loss terms of the last inner step."""
        self.round += 1
        if self.reset_after is not None and self.round == self.warmup_rounds + self.reset_after:
            self._reset_first_layers()
        latents = self._start_latents()
        labels = torch.randint(self.spec.num_classes, (self.batch_size,), device=self.device)
        # A copy, not a newly built network: building one would draw random numbers.
        fast = self.generator if self.meta == "none" else copy.deepcopy(self.generator)
        inner = self._inner_optimizer(fast.train(), latents)
        self.meta_optimizer.zero_grad()
        kept, lowest = latents.new_zeros(()), latents.new_full((), torch.inf)
        with tap(self.teacher) as heard:
            for _ in range(self.inner_steps):
                pixels = fast(latents).float()
                terms, statistics = self._terms(pixels, labels, heard, student)
                loss = weighted_sum(terms, self.weights)
                kept = torch.where(loss.detach() < lowest, pixels.detach(), kept)
                if self.keeps_best:
                    lowest = torch.minimum(lowest, loss.detach())
                inner.zero_grad()
                backward(loss)
                self._collect_gradients(fast)
                inner.step()
        self.smoothed = statistics.detached()
        self._move_meta_generator(fast)
        self.bank.append(kept)
        return {name: term.detach() for name, term in terms.items()}

    def _reset_first_layers(self) -> None:
        for path in ("l1.0", "conv_blocks.0"):
            for name, parameter in self.generator.get_submodule(path).named_parameters():
                if name == "bias":
                    nn.init.zeros_(parameter)
                else:  # around 0, the BN's scale too, as in the released code
                    nn.init.normal_(parameter, std=_RESET_STD)
        # Every rank has drawn its own.
        broadcast_module(self.generator)

    def _start_latents(self) -> Tensor:
        """Leaf of the inner steps: new latents, or those that the last round has left."""
        if self.reinit_every is None:
            return self._new_latents().requires_grad_()
        if (self.round - 1) % self.reinit_every == 0:
            self.latents = self._new_latents()
            self.meta_optimizer = self._new_meta_optimizer()
        # The same memory: the inner steps move what the next round starts from.
        return self.latents.detach().requires_grad_()

    def _inner_optimizer(self, fast: nn.Module, latents: Tensor) -> Adam:
        groups: list[dict[str, Any]] = [
            {"params": list(fast.parameters()), "lr": self.generator_lr},
            {"params": [latents], "lr": self.latent_lr},
        ]
        return Adam(groups, betas=_BETAS, fused=True)

    def _terms(
        self, pixels: Tensor, labels: Tensor, heard: BNTap, student: nn.Module | None
    ) -> tuple[dict[str, Tensor], BNStatistics]:
        """Loss terms of one inner step, and the mixed statistics that they are made of."""
        images = self.normalisation(self.view(pixels, global_generator(self.device)))
        logits = self.teacher(images).logits
        statistics = heard.statistics().smoothed(self.smoothed, self.bn_momentum)
        terms = {
            "class": class_loss(logits, labels),
            "bn": bn_statistics_loss(statistics, heard.target),
        }
        wanted = self.weights["adversarial"] > 0 and self.round >= self.warmup_rounds
        if student is not None and wanted:
            terms["adversarial"] = decision_disagreement_loss(student(images), logits)
        return terms, statistics

    def _collect_gradients(self, fast: nn.Module) -> None:
        """Add the copy's gradients to the meta-generator's."""
        if self.meta == "none":
            average_gradients(fast.parameters())
        if self.meta != "maml":
            return
        for parameter, adapted in zip(self.generator.parameters(), fast.parameters(), strict=True):
            if adapted.grad is not None:
                before = parameter.grad
                parameter.grad = adapted.grad if before is None else before + adapted.grad

    def _move_meta_generator(self, fast: nn.Module) -> None:
        """One step along the collected gradients, or towards the adapted copy."""
        if self.meta == "none":
            return
        if self.meta == "reptile":
            pairs = zip(self.generator.parameters(), fast.parameters(), strict=True)
            for parameter, adapted in pairs:
                parameter.grad = _REPTILE_SCALE * (parameter.detach() - adapted.detach())
        average_gradients(self.generator.parameters())
        self.meta_optimizer.step()

    def sample(self, n: int) -> Tensor:
        """Images of all rounds so far, augmented as in training."""
        return self.bank.draw(n, global_generator(self.device))

    def optimizers(self) -> Mapping[str, Optimizer]:
        """The meta-generator's, where there is one."""
        return {} if self.meta == "none" else {"meta": self.meta_optimizer}

    def get_extra_state(self) -> dict[str, Any]:
        """Optimiser, progress and the smoothed statistics."""
        return {
            "optimizers": super().get_extra_state(),
            "round": self.round,
            "smoothed": None if self.smoothed is None else list(self.smoothed),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load them."""
        super().set_extra_state(state["optimizers"])
        self.round = state["round"]
        saved = state["smoothed"]  # on the CPU, whatever computes
        self.smoothed = saved and BNStatistics(*(each.to(self.device) for each in saved))
