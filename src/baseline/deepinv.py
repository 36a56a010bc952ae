"""DeepInversion: images optimised pixel by pixel, without a generator."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from src.common.augment import roll_flip
from src.common.distributed import own_places
from src.common.seeding import global_generator
from src.dataset.contract import ImageSpec
from src.objective.adversarial import reversed_js_divergence
from src.objective.inversion import (
    bn_statistics_loss,
    class_loss,
    image_norm,
    total_variation_l1,
    total_variation_l2,
)
from src.objective.precision import backward
from src.objective.weighted import weighted_sum
from src.substitution.contract import Baseline, Extent
from src.substitution.image_bank import ImageBank
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import BNTap, tap


class Stage(NamedTuple):
    """One leg of an inversion: ``steps`` on images pooled by ``pooling``, with an Adam of its own.

    ``max_shift`` counts pixels of the pooled images.
    """

    steps: int
    pooling: int
    max_shift: int


class DeepInv(Baseline):
    """One round inverts the teacher into one batch of images, and puts it into the bank.

    Pixels start as noise N(0, 1) in the teacher's input space and minimise
    ``w_bn L_bn + w_oh CE(T(x'), y) - w_adv JS'(S(x'), T(x')) + w_1 TV_1 + w_2 TV_2 + w_l2 L_2``
    where x' is the whole batch rolled and mirrored at random. With the adversarial term it is
    Adaptive DeepInversion; without a student, or at weight 0, the student is never evaluated.

    Three protocols exist. The defaults are the distillation baseline of CMI's repository; those of
    the authors' scripts for CIFAR-10 and for ImageNet (``half_steps``, ``warmup_steps``,
    ``first_bn_multiplier``, ``l2_per_sample``) are spelt out in the recipes.

    Args:
        optimizer: Makes the pixels' optimiser.
        batch_size: Images a round.
        steps: Iterations at full resolution.
        half_steps: Iterations on images pooled 2x2, before those.
        max_shift: Greatest roll of the jitter at full resolution, pixels.
        half_max_shift: The same at half resolution, in its pixels.
        mirror: Whether the jitter mirrors, with the probability of the data set's training
            transform.
        warmup_steps: Iterations over which a stage's rate rises linearly before it falls to 0 as
            a cosine, at most half of the stage; None keeps it constant.
        clamp: Clamp the pixels to their valid range after every step.
        keep: The ``last`` iterate, as the code behind the published baseline does in effect, or
            the ``best``: the one just after the step whose batch loss was lowest.
        labels: Wanted classes: ``random``, or ``balanced`` as 0, 1, ..., K-1, 0, 1, ...
        priors_on: What TV and L2 see: the ``pixels``, or the pooled and jittered ``view``.
        bn_weight: w_bn, of the BatchNorm statistics.
        first_bn_multiplier: Additional weight of the first BatchNorm layer.
        class_weight: w_oh.
        adversarial_weight: w_adv.
        js_temperature: Temperature of JS'.
        js_floor: Lower clamp of the probabilities in JS'; below it a class has no gradient.
        clip_js: Reward with ``1 - clamp(JS', 0, 1)``: none above 1.
        tv_l1_weight: w_1, of the mean absolute differences of neighbours.
        tv_l2_weight: w_2, of their Frobenius norms over the batch.
        l2_weight: w_l2.
        l2_per_sample: L2 is the mean norm of an image, not the norm of the batch.

    Differs from the paper: BN norms are not squared and JS' is the reversed, clamped divergence;
    both as in every released code. ``keep=best`` compares within the last stage; the ImageNet
    script compares across both, so that a half-resolution iterate can win. While the bank grows,
    students draw from it with replacement instead of in shuffled passes.

    Source: Yin et al., Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion,
    CVPR 2020, arXiv:1912.08795; as a distillation baseline: Fang et al., Contrastive Model
    Inversion for Data-Free Knowledge Distillation, IJCAI 2021, arXiv:2105.08584.
    """

    reads_student: ClassVar[bool] = True
    reads_statistics: ClassVar[bool] = True

    bn_layer_weights: Tensor

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        optimizer: partial[Optimizer],
        batch_size: PositiveInt,
        steps: PositiveInt,
        half_steps: NonNegativeInt = 0,
        max_shift: NonNegativeInt = 4,
        half_max_shift: NonNegativeInt = 2,
        mirror: bool = True,
        warmup_steps: NonNegativeInt | None = None,
        clamp: bool = True,
        keep: Literal["last", "best"] = "last",
        labels: Literal["random", "balanced"] = "random",
        priors_on: Literal["pixels", "view"] = "pixels",
        bn_weight: NonNegativeFloat = 10.0,
        first_bn_multiplier: NonNegativeFloat = 1.0,
        class_weight: NonNegativeFloat = 1.0,
        adversarial_weight: NonNegativeFloat = 1.0,
        js_temperature: PositiveFloat = 3.0,
        js_floor: Annotated[float, Field(gt=0, lt=0.5)] = 0.01,
        clip_js: bool = False,
        tv_l1_weight: NonNegativeFloat = 0.001,
        tv_l2_weight: NonNegativeFloat = 0.0,
        l2_weight: NonNegativeFloat = 0.0,
        l2_per_sample: bool = False,
        temperature: PositiveFloat = 20.0,
    ) -> None:
        super().__init__(teacher=teacher, spec=spec, temperature=temperature)
        self.optimizer, self.warmup_steps = optimizer, warmup_steps
        self.batch_size, self.balanced = batch_size, labels == "balanced"
        stages = [Stage(half_steps, 2, half_max_shift), Stage(steps, 1, max_shift)]
        self.stages = [stage for stage in stages if stage.steps]
        self.mirror_probability = spec.augmentation.flip_probability if mirror else 0.0
        self.clamp, self.keeps_best = clamp, keep == "best"
        self.priors_on_view, self.l2_per_sample = priors_on == "view", l2_per_sample
        num_bn = sum(isinstance(module, nn.BatchNorm2d) for module in teacher.modules())
        bn_layer_weights = torch.tensor([first_bn_multiplier] + [1.0] * (num_bn - 1))
        self.register_buffer("bn_layer_weights", bn_layer_weights, persistent=False)
        self.js_temperature, self.js_floor, self.clip_js = js_temperature, js_floor, clip_js
        self.weights = {
            "bn": bn_weight,
            "class": class_weight,
            "adversarial": adversarial_weight,
            "tv_l1": tv_l1_weight,
            "tv_l2": tv_l2_weight,
            "l2": l2_weight,
        }
        self.bank = ImageBank.of(spec, augmentation=spec.augmentation)

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        """A batch a round."""
        return {"the rounds of stage (a)": extent.rounds * options["batch_size"]}

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """Make one batch of images. Ranks make theirs alone: nothing learnt outlives a round."""
        size, classes = self.spec.image_size, self.spec.num_classes
        if self.balanced:
            labels = own_places(self.batch_size, self.device) % classes
        else:
            labels = torch.randint(classes, (self.batch_size,), device=self.device)
        shape = (self.batch_size, self.spec.channels, size, size)
        pixels = torch.randn(shape, device=self.device, requires_grad=True)
        with tap(self.teacher) as heard:
            for stage in self.stages:
                images, terms = self._optimise(pixels, labels, stage, student, heard)
        self.bank.append(self.normalisation.inverse(images))
        return {name: term.detach() for name, term in terms.items()}

    def _optimise(
        self,
        pixels: Tensor,
        labels: Tensor,
        stage: Stage,
        student: nn.Module | None,
        heard: BNTap,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Run a stage on ``pixels``, in place; return the chosen iterate and the last terms."""
        optimizer = self.optimizer([pixels])
        schedule = LambdaLR(optimizer, partial(self._rate, stage.steps))
        best, lowest = pixels.detach().clone(), torch.full((), math.inf, device=self.device)
        for _ in range(stage.steps):
            terms = self.terms(pixels, self.view(pixels, stage), labels, student, heard)
            loss = weighted_sum(terms, self.weights)
            optimizer.zero_grad()
            backward(loss, [pixels])
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                if self.clamp:
                    pixels.clamp_(*self.normalisation.valid_range())
                if self.keeps_best:
                    best = torch.where(loss < lowest, pixels, best)
                    lowest = torch.where(loss < lowest, loss, lowest)
        # A copy: an alias of the pixels would follow whatever optimises them next.
        return best if self.keeps_best else pixels.detach().clone(), terms

    def _rate(self, steps: int, step: int) -> float:
        """Factor of the learning rate at ``step`` of a stage of ``steps``."""
        if self.warmup_steps is None:
            return 1.0
        warmup = min(self.warmup_steps, steps // 2)
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / (steps - warmup)
        return (1 + math.cos(math.pi * progress)) / 2

    def view(self, pixels: Tensor, stage: Stage) -> Tensor:
        """What the networks see of ``pixels``: pooled, then rolled and mirrored at random."""
        pooled = F.avg_pool2d(pixels, stage.pooling) if stage.pooling > 1 else pixels
        generator = global_generator(self.device)
        return roll_flip(pooled, stage.max_shift, self.mirror_probability, generator)

    def terms(
        self,
        pixels: Tensor,
        view: Tensor,
        labels: Tensor,
        student: nn.Module | None,
        heard: BNTap,
    ) -> dict[str, Tensor]:
        """Loss terms of one iteration, unweighted; those of weight 0 are not computed.

        Args:
            pixels: What is optimised, ``[B, C, H, W]``, normalised.
            view: What the networks see of it.
            labels: Wanted classes ``[B]``.
            student: The student, or None.
            heard: An open tap of the teacher.
        """
        logits = self.teacher(view).logits
        seen = view if self.priors_on_view else pixels
        candidates: dict[str, Callable[[], Tensor]] = {
            "bn": lambda: bn_statistics_loss(
                heard.statistics(), heard.target, self.bn_layer_weights
            ),
            "class": lambda: class_loss(logits, labels),
            "tv_l1": lambda: total_variation_l1(seen),
            "tv_l2": lambda: total_variation_l2(seen),
            "l2": lambda: image_norm(seen, self.l2_per_sample),
        }
        if student is not None:
            candidates["adversarial"] = lambda: self._agreement(student(view), logits)
        return {name: term() for name, term in candidates.items() if self.weights[name]}

    def _agreement(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Adversarial term, lower where student and teacher differ more."""
        divergence = reversed_js_divergence(
            student_logits, teacher_logits, self.js_temperature, self.js_floor
        )
        return 1 - divergence.clamp(0, 1) if self.clip_js else -divergence

    def sample(self, n: int) -> Tensor:
        """Images of all rounds so far, augmented as the data set's training images."""
        return self.bank.draw(n, global_generator(self.device))
