"""SpaceshipNet: a generator's feature maps are kept, mixed by channels, and decoded anew."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.optim import Adam

from src.common.distributed import average_gradients, own_places
from src.common.errors import UserError
from src.common.freezing import mode
from src.common.seeding import global_generator
from src.dataset.contract import ImageSpec
from src.network.generator import Generator, reinitialise
from src.objective.class_activation import ClassActivationObjective
from src.objective.inversion import bn_statistics_loss, class_loss
from src.objective.precision import backward
from src.objective.weighted import weighted_sum
from src.substitution.contract import Baseline, Extent
from src.substitution.image_bank import ImageBank
from src.substitution.row_store import RowStore
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import BNTap, tap

_BETAS = (0.5, 0.999)
_ATTENTION_WEIGHT = 1.0
_GIB = 2**30


class SpaceshipNet(Baseline):
    """A round trains the generator on one batch of latents, and keeps the maps on its way.

    Every step lowers ``L = w_oh CE(T(x), y) + w_bn L_bn`` for labels 0, 1, .., K - 1, 0, 1, ..; of
    the step of the lowest loss the maps behind the first BN and behind either block are kept, in
    a store each. A batch for the student is drawn from one of the stores, and decoded by the
    generator as it is now. With probability p it is mixed before: image i keeps a random half of
    its channels, and takes the others of image N - 1 - i.

    The student also meets the teacher's class activation maps, see
    :class:`src.objective.class_activation.ClassActivationObjective`. KDCI's compensation acts on
    logits, so it and these maps, which are those of the plain student, answer the same shift: of
    labels, the first N mod K of which are shown once more, and of mixed images.

    Stores take 426 kB an image at 32 pixels (33, 131 and 262), 1.7 MB at 64: 21.8 GB for the
    51,200 images of 200 rounds of 256, once in memory or files, and once in the saved state.

    Args:
        generator: Makes the generator from ``image_size`` and ``channels``.
        batch_size: Images of a round, N.
        steps: Generator steps of a round.
        generator_lr: Learning rate of an Adam that is new in every round.
        class_weight: w_oh.
        bn_weight: w_bn.
        exchange_probability: p.
        attention_weight: Of all class activation maps in the student's loss; 1 as published.
        store_memory: GiB up to which a store is in memory, on the device; a larger one is a file
            in the temporary folder, for as long as the process lives.
        half_maps: Keep maps in half precision, which takes half the room; not as published.

    Differs from the authors' code: images and labels are not stored with the maps, as nothing
    reads them (row r has label r mod N mod K). Batches are drawn with replacement. The student
    has its network's own initialisation, not Xavier's. They know ResNets only: here all stages
    that a network names are compared, and the class activation maps are made of the last of them
    also where BN and ReLU come before the pooling. On several ranks latents and stores are each
    rank's own. Replay records decoded batches, mixed ones too, instead of decoding anew in every
    step.

    Source: Yu, Chen, Han, Jiang, Data-Free Knowledge Distillation via Feature Exchange and
    Activation Region Constraint, CVPR 2023.
    """

    reads_statistics: ClassVar[bool] = True

    def __init__(
        self,
        *,
        teacher: FrozenTeacher,
        spec: ImageSpec,
        generator: Callable[..., Generator],
        batch_size: PositiveInt,
        steps: PositiveInt,
        generator_lr: PositiveFloat,
        class_weight: NonNegativeFloat = 0.5,
        bn_weight: NonNegativeFloat = 1.0,
        exchange_probability: Annotated[float, Field(ge=0, le=1)] = 0.7,
        attention_weight: NonNegativeFloat = _ATTENTION_WEIGHT,
        store_memory: NonNegativeFloat = 2.0,
        half_maps: bool = False,
        temperature: PositiveFloat = 30.0,
    ) -> None:
        super().__init__(teacher=teacher, spec=spec, temperature=temperature)
        self.generator = generator(image_size=spec.image_size, channels=spec.channels)
        if not all(len(part) for part in self.generator.parts()):
            raise UserError(
                "Expected baseline.generator.blocks >= 2, since the maps behind two are mixed, "
                f"but got a {type(self.generator).__name__} of fewer; the default is 2"
            )
        _initialise(self.generator)
        self.batch_size, self.steps, self.generator_lr = batch_size, steps, generator_lr
        self.weights = {"class": class_weight, "bn": bn_weight}
        self.exchange_probability = exchange_probability
        self.attention_weight = attention_weight
        with torch.no_grad(), mode(self.generator, False):
            *maps, _ = self._pass(torch.zeros(1, *self.generator.latent_shape))
        dtype = torch.float16 if half_maps else torch.float32
        self.stores = nn.ModuleList(
            RowStore(tuple(each.shape[1:]), dtype, mapped_above=int(store_memory * _GIB))
            for each in maps
        )
        self.bank = ImageBank.of(spec, augmentation=spec.augmentation)

    @classmethod
    def most_recorded(cls, options: Mapping[str, Any], extent: Extent) -> dict[str, int]:
        """What is decoded for replay."""
        return {"substitution.num_images": extent.num_images}

    @classmethod
    def compares_maps(cls, options: Mapping[str, Any]) -> bool:
        """Unless class activation maps have no weight."""
        return bool(options.get("attention_weight", _ATTENTION_WEIGHT))

    @classmethod
    def weighs_maps(cls, options: Mapping[str, Any]) -> bool:
        """As it compares them."""
        return cls.compares_maps(options)

    def networks(self) -> list[nn.Module]:
        """The generator."""
        return [self.generator]

    def objective(self) -> nn.Module:
        """KL and class activation maps."""
        head = self.teacher.network.head.weight
        return ClassActivationObjective(self.temperature, self.attention_weight, head)

    def _stores(self) -> list[RowStore]:
        return cast("list[RowStore]", list(self.stores))

    def _pass(self, latents: Tensor) -> list[Tensor]:
        """Maps of three sizes and pixels."""
        made = [latents]
        for part in self.generator.parts():
            made.append(part(made[-1]))
        return made[1:]

    def refresh(self, student: nn.Module | None) -> dict[str, Tensor]:
        """Train the generator on a batch, and store its maps; the terms of the last step."""
        latents = torch.randn(self.batch_size, *self.generator.latent_shape, device=self.device)
        labels = own_places(self.batch_size, self.device) % self.spec.num_classes
        optimizer = Adam(
            self.generator.parameters(), lr=self.generator_lr, betas=_BETAS, fused=True
        )
        kept = [latents.new_zeros(()) for _ in self.stores]
        lowest = latents.new_full((), torch.inf)
        self.generator.train()
        with tap(self.teacher) as heard:
            for _ in range(self.steps):
                *maps, pixels = self._pass(latents)
                terms = self._terms(pixels.float(), labels, heard)
                loss = weighted_sum(terms, self.weights)
                is_best = loss.detach() < lowest
                lowest = torch.minimum(lowest, loss.detach())
                kept = [
                    torch.where(is_best, each.detach().float(), old)
                    for each, old in zip(maps, kept, strict=True)
                ]
                optimizer.zero_grad()
                backward(loss)
                average_gradients(self.generator.parameters())
                optimizer.step()
        for store, each in zip(self._stores(), kept, strict=True):
            store.append(each)
        return {name: term.detach() for name, term in terms.items()}

    def _terms(self, pixels: Tensor, labels: Tensor, heard: BNTap) -> dict[str, Tensor]:
        view = self.spec.augmentation(pixels, global_generator(self.device))
        logits = self.teacher(self.normalisation(view)).logits
        return {
            "class": class_loss(logits, labels),
            "bn": bn_statistics_loss(heard.statistics(), heard.target),
        }

    def _decode(self, n: int) -> Tensor:
        """Pixels ``[n, C, H, W]`` of stored maps, mixed or not, by the generator as it is."""
        # Drawn on the CPU, as the host has to know them.
        level = int(torch.randint(len(self.stores), ()))
        is_mixed = float(torch.rand(())) < self.exchange_probability
        store, draws = self._stores()[level], global_generator(self.device)
        index = torch.randint(len(store), (n,), generator=draws, device=self.device)
        made: Tensor = store.take(index).float()
        if is_mixed:
            made = exchanged(made, draws)
        with mode(self.generator, False):
            for part in self.generator.parts()[level + 1 :]:
                made = part(made)
        return made.float()

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """Decoded maps of one size, of all rounds so far, augmented as in training."""
        view = self.spec.augmentation(self._decode(n), global_generator(self.device))
        images: Tensor = self.normalisation(view)
        return images

    @torch.no_grad()
    def harvest(self, n: int) -> None:
        """Record ``n`` images, decoded in whole batches so that each has a partner."""
        while n > 0:
            self.bank.append(self._decode(self.batch_size)[:n])
            n -= self.batch_size


def exchanged(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Every image with half of its channels, and those of image N - 1 - i in place of the others.

    Args:
        maps: ``[N, C, H, W]``; of C channels, floor(C / 2) are kept.
        generator: Draws, for every image, which.
    """
    draws = torch.rand(maps.shape[:2], generator=generator, device=generator.device)
    ranks = draws.argsort(dim=1, stable=True).to(maps.device)
    is_kept = ranks < maps.shape[1] // 2
    return torch.where(is_kept[:, :, None, None], maps, maps.flip(0))


def _initialise(generator: nn.Module) -> None:
    """Kaiming's weights, normal, by inputs; scales of BatchNorm ~ N(1, 0.02), biases 0."""
    reinitialise(generator)
    for layer in generator.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
