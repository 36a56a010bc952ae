"""CMI: a new generator for every batch, whose images must differ from all made before."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim import Optimizer

from src.common.arrays import open_array
from src.common.augment import Areas
from src.common.distributed import average_gradients, rank, world_size
from src.common.errors import UserError
from src.common.seeding import global_generator
from src.dataset.contract import ImageSpec
from src.network.generator import ImageGenerator, reinitialise
from src.objective.adversarial import decision_disagreement_loss
from src.objective.contrastive import ContrastiveHead, contrastive_loss
from src.objective.inversion import bn_statistics_loss, class_loss
from src.objective.precision import backward
from src.objective.weighted import weighted_sum
from src.substitution.contract import Baseline, Extent
from src.substitution.feature_bank import FeatureBank
from src.substitution.image_bank import ImageBank
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import BNTap, tap

_STAGES = ("layer1", "layer2", "layer3", "layer4")
_WIDEST = 8192


class CMI(Baseline):
    """One round inverts the teacher into one batch of images, and puts it into the bank.

    A freshly initialised generator and its latents minimise
    ``w_bn L_bn + w_oh CE(T(g), y) + w_adv L_adv + w_cr L_cr``. The first three look at g, the
    images cropped and mirrored. L_cr compares the teacher's features of g and of a stronger crop
    l: l has to find its own g among the batch and earlier images, and alone carries a gradient.
    The iterate of the lowest batch loss is kept.

    Args:
        generator: Makes the generator from ``image_size`` and ``channels``.
        optimizer: Makes the round's optimiser of generator and latents.
        head_optimizer: Makes the optimiser of the contrastive head, which outlives the round.
        batch_size: N, images a round.
        steps: Iterations a round.
        bn_weight: w_bn, of the BatchNorm statistics.
        class_weight: w_oh.
        adversarial_weight: w_adv, of the divergence where student and teacher decide alike;
            without a student, or at weight 0, the student is never evaluated.
        contrastive_weight: w_cr; at 0 there is no local view, no head and no feature bank.
        contrastive_temperature: tau.
        projection_dim: Width of the head's projection.
        bank_capacity: Rows of the feature bank, of each rank.
        num_negatives: Rows drawn from it in every iteration, by each rank.
        local_scale: Least and greatest area of the local view's crop.
        feature_layers: Features are the spatial means of the inputs of all BatchNorm layers
            (``bn``), or of a ResNet's four stages (``stages``). ``auto`` takes stages where a
            ResNet's BN layers have over 8192 channels; that is as published for ResNet-34.
        initial_images: ``.npy`` file of uint8 images ``[n, C, H, W]`` made earlier, such as the
            bank of another stage (a), that the image bank starts with; ranks share them out.

    Differs from the released code: its test for a full feature bank fails in the one round in
    which it is exactly full; the loss is NaN there and a batch of noise enters the pool. While
    the bank grows, students draw from it with replacement instead of in shuffled passes.

    Source: Fang et al., Contrastive Model Inversion for Data-Free Knowledge Distillation,
    IJCAI 2021, arXiv:2105.08584.
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
        head_optimizer: partial[Optimizer],
        batch_size: PositiveInt,
        steps: PositiveInt,
        bn_weight: NonNegativeFloat = 1.0,
        class_weight: NonNegativeFloat = 1.0,
        adversarial_weight: NonNegativeFloat = 0.5,
        contrastive_weight: NonNegativeFloat = 0.8,
        contrastive_temperature: PositiveFloat = 0.1,
        projection_dim: PositiveInt = 256,
        bank_capacity: PositiveInt = 40960,
        num_negatives: NonNegativeInt = 4096,
        local_scale: Areas = (0.25, 1.0),
        feature_layers: Literal["auto", "bn", "stages"] = "auto",
        initial_images: str | None = None,
        temperature: PositiveFloat = 20.0,
    ) -> None:
        super().__init__(teacher=teacher, spec=spec, temperature=temperature)
        self.generator = generator(image_size=spec.image_size, channels=spec.channels)
        self.optimizer = optimizer
        self.batch_size, self.steps, self.local_scale = batch_size, steps, local_scale
        self.weights = {
            "bn": bn_weight,
            "class": class_weight,
            "adversarial": adversarial_weight,
            "contrastive": contrastive_weight,
        }
        self.feature_layers = feature_layers_of(teacher, feature_layers)
        self.contrast: Contrast | None = None
        if contrastive_weight:
            dim = feature_dim(teacher, self.feature_layers, spec)
            self.contrast = Contrast(
                ContrastiveHead(dim, projection_dim),
                head_optimizer,
                FeatureBank(bank_capacity, 2 * dim),
                num_negatives,
                contrastive_temperature,
            )
        self.bank = ImageBank.of(spec, augmentation=spec.augmentation)
        if initial_images is not None:
            self.bank.append(_read_share(initial_images, self.bank.image_shape))

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        """A batch a round; with initial images, more."""
        if options.get("initial_images") is not None:
            return {}
        return {"the rounds of stage (a)": extent.rounds * options["batch_size"]}

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """Make one batch of images."""
        reinitialise(self.generator)
        self.generator.train()
        latent_shape = (self.batch_size, *self.generator.latent_shape)
        latents = torch.randn(latent_shape, device=self.device, requires_grad=True)
        labels = torch.randint(self.spec.num_classes, (self.batch_size,), device=self.device)
        # They belong to this round and to this rank's batch, so their gradients stay here.
        variables = [*self.generator.parameters(), latents]
        optimizer = self.optimizer(variables)
        best: list[Tensor] = []
        lowest = torch.full((), math.inf, device=self.device)
        with tap(self.teacher, self.feature_layers) as heard:
            for _ in range(self.steps):
                images = self.generator(latents).float()
                terms, features = self.terms(images, labels, student, heard)
                loss = weighted_sum(terms, self.weights)
                self._step(loss, optimizer, variables)
                made = [images.detach(), features]
                is_best = loss.detach() < lowest
                best = [
                    torch.where(is_best, *pair) for pair in zip(made, best or made, strict=True)
                ]
                lowest = torch.where(is_best, loss.detach(), lowest)
        self.bank.append(best[0])
        if self.contrast is not None:
            self.contrast.bank.append(best[1])
        return {name: term.detach() for name, term in terms.items()}

    def terms(
        self, images: Tensor, labels: Tensor, student: nn.Module | None, heard: BNTap
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Loss terms of one iteration, unweighted, and what the feature bank may keep of it.

        Args:
            images: Pixels in [0, 1], ``[B, C, H, W]``.
            labels: Wanted classes ``[B]``.
            student: The student, or None.
            heard: An open tap of the teacher.

        Returns:
            The terms, and the features of local and global view ``[B, 2D]``, detached; width 0
            without the contrastive term.
        """
        view = self.normalisation(self.global_view(images))
        logits = self.teacher(view).logits
        terms = {
            "bn": bn_statistics_loss(heard.statistics(), heard.target),
            "class": class_loss(logits, labels),
        }
        if student is not None and self.weights["adversarial"]:
            terms["adversarial"] = decision_disagreement_loss(student(view), logits)
        if self.contrast is None:
            return terms, images.new_empty(len(images), 0)
        global_features = heard.pooled().detach()
        local_view = self.normalisation(self.local_view(images))
        local_features = heard.features(self.teacher, local_view)
        terms["contrastive"] = self.contrast(local_features, global_features)
        return terms, torch.cat([local_features.detach(), global_features], dim=1)

    def global_view(self, images: Tensor) -> Tensor:
        """Crop out of a black border, and mirror."""
        view = replace(self.spec.augmentation, scale=None)
        return view(images, global_generator(self.device))

    def local_view(self, images: Tensor) -> Tensor:
        """Cut out a box, enlarge it, and mirror."""
        view = replace(self.spec.augmentation, scale=self.local_scale)
        return view(images, global_generator(self.device))

    def _step(self, loss: Tensor, optimizer: Optimizer, variables: list[Tensor]) -> None:
        """One step of generator, latents and contrastive head, from the same gradient."""
        optimizers = [optimizer, *self.optimizers().values()]
        head = [parameter for network in self.networks() for parameter in network.parameters()]
        for each in optimizers:
            each.zero_grad()
        backward(loss, [*variables, *head])
        if head:
            # It outlives the round, so it has to stay the same network on all ranks.
            average_gradients(head)
        for each in optimizers:
            each.step()

    def sample(self, n: int) -> Tensor:
        """Images of all rounds so far, augmented as the data set's training images."""
        return self.bank.draw(n, global_generator(self.device))

    def optimizers(self) -> Mapping[str, Optimizer]:
        """The contrastive head's."""
        return {} if self.contrast is None else {"head": self.contrast.optimizer}

    def networks(self) -> list[nn.Module]:
        """The contrastive head; the generator lives for a round only."""
        return [] if self.contrast is None else [self.contrast.head]


class Contrast(nn.Module):
    """What of the contrastive term outlives a round: head, optimiser and feature bank."""

    def __init__(
        self,
        head: ContrastiveHead,
        optimizer: partial[Optimizer],
        bank: FeatureBank,
        num_negatives: int,
        temperature: float,
    ) -> None:
        super().__init__()
        self.head, self.bank = head, bank
        self.optimizer = optimizer(head.parameters())
        self.num_negatives, self.temperature = num_negatives, temperature

    def forward(self, local_features: Tensor, global_features: Tensor) -> Tensor:
        """Contrastive term of local and global views ``[N, D]``, scalar, against the bank."""
        banked = self.bank.draw(self.num_negatives, global_generator(self.bank.rows.device))
        banked_local, banked_global = banked.chunk(2, dim=1)
        anchors = self.head(local_features, banked_local)
        with torch.no_grad():
            candidates = self.head(global_features, banked_global)
        return contrastive_loss(anchors, candidates, len(local_features), self.temperature)


def feature_layers_of(teacher: FrozenTeacher, choice: str) -> tuple[str, ...]:
    """Names of the layers whose inputs are the features; none stands for all BN layers.

    Raises:
        UserError: If stages are chosen, and the teacher has none.
    """
    widths = [m.num_features for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    is_resnet = all(hasattr(teacher.network, name) for name in _STAGES)
    if choice == "stages" and not is_resnet:
        raise UserError(
            "Expected baseline.feature_layers=auto or baseline.feature_layers=bn with a teacher "
            f"that lacks a ResNet's stages ({', '.join(_STAGES)}), but got stages and "
            f"{type(teacher.network).__name__}; give one of them, or a ResNet as the teacher"
        )
    if choice == "bn" or (choice == "auto" and not (is_resnet and sum(widths) > _WIDEST)):
        return ()
    return _STAGES


@torch.no_grad()
def feature_dim(teacher: FrozenTeacher, layers: tuple[str, ...], spec: ImageSpec) -> int:
    """D, summed over the named layers, or over all BN layers if none is named."""
    device = next(teacher.parameters()).device
    blank = torch.zeros(1, spec.channels, spec.image_size, spec.image_size, device=device)
    with tap(teacher, layers) as heard:
        teacher(blank)
        return heard.pooled().shape[1]


def _read_share(path: str, image_shape: tuple[int, int, int]) -> Tensor:
    """This rank's share of an ``.npy`` file of images."""
    expected = f"one or more uint8 images [n, {', '.join(map(str, image_shape))}] in .npy format"
    stored = open_array("baseline.initial_images", path, expected)
    if stored.dtype != np.uint8 or stored.shape[1:] != image_shape or not len(stored):
        raise UserError(
            f"Expected baseline.initial_images='{path}' to hold {expected}, but got "
            f"{stored.dtype} {list(stored.shape)}"
        )
    return torch.from_numpy(stored[rank() :: world_size()].copy())
