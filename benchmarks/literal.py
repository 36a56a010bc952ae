"""The methods as a literal loop, to time this program against: :mod:`benchmarks.against_literal`.

How the published codes work, written from the methods' equations: float32, contiguous tensors, a
hook on every BatchNorm layer that copies and reduces its input, plain optimisers, views drawn
image by image, PNG files. Values are those of the CIFAR scripts; the networks and their first
weights, which are not what is compared, are this program's. Kinder than they are: neither network
takes gradients of its own in a synthesis, no loader and its workers are started for every round,
and Fast never starts anew.
"""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from src.dataset.contract import ImageSpec
from src.network.classifier import Classifier
from src.network.generator import Generator, reinitialise

_BETAS = (0.5, 0.999)
_BANK, _NEGATIVES = 40_960, 4096  # of CMI
Round = Callable[[], object]


class Statistics:
    """A hook on each BatchNorm layer: distance of its input's statistics, and pooled input.

    Args:
        network: Teacher.
        pools: Whether the inputs are pooled, which only CMI reads.
        momentum: Share of older batches in the statistics; see :meth:`remember`.
    """

    def __init__(self, network: nn.Module, pools: bool = False, momentum: float = 0.0) -> None:
        self.pools, self.momentum = pools, momentum
        self.older: list[tuple[Tensor, Tensor]] = []
        network.register_forward_pre_hook(self._begin)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(self._hear)

    def _begin(self, *_: Any) -> None:
        self.distances: list[Tensor] = []
        self.pooled: list[Tensor] = []
        self.moments: list[tuple[Tensor, Tensor]] = []

    def _hear(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        (maps,) = inputs
        mean = maps.mean((0, 2, 3))
        variance = maps.transpose(0, 1).contiguous().flatten(1).var(1, unbiased=False)
        if self.older:
            older_mean, older_variance = self.older[len(self.moments)]
            mean = self.momentum * older_mean + (1 - self.momentum) * mean
            variance = self.momentum * older_variance + (1 - self.momentum) * variance
        self.moments.append((mean.detach(), variance.detach()))
        known_mean, known_variance, _ = layer.buffers()
        distance = torch.linalg.vector_norm(mean - known_mean)
        self.distances.append(distance + torch.linalg.vector_norm(variance - known_variance))
        if self.pools:
            self.pooled.append(maps.mean((2, 3)))

    def distance(self) -> Tensor:
        """Sum over the layers, of the pass that was last."""
        return torch.stack(self.distances).sum()

    def features(self) -> Tensor:
        """Pooled inputs of all layers ``[B, D]``, of the pass that was last."""
        return torch.cat(self.pooled, dim=1)

    def remember(self) -> None:
        """Mix the statistics of the pass that was last into those of the next ones."""
        self.older = self.moments


class Files:
    """Images as PNG files, and batches of all of them."""

    def __init__(self, folder: Path, spec: ImageSpec, batch_size: int) -> None:
        self.folder, self.batch_size = folder, batch_size
        self.transform = v2.Compose(
            [
                v2.PILToTensor(),
                v2.RandomCrop(spec.image_size, padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(spec.mean, spec.std),
            ]
        )

    def append(self, images: Tensor) -> None:
        """Keep pixels in [0, 1], ``[B, 3, H, W]``."""
        first = len(list(self.folder.iterdir()))
        pixels = (images.detach() * 255).byte().permute(0, 2, 3, 1).numpy()
        for number, each in enumerate(pixels, first):
            Image.fromarray(each).save(self.folder / f"{number}.png")

    def batches(self) -> "DataLoader[Tensor]":
        """A new loader of what is there."""
        files, transform = sorted(self.folder.iterdir()), self.transform

        class Images(Dataset[Tensor]):
            def __len__(self) -> int:
                return len(files)

            def __getitem__(self, index: int) -> Tensor:
                with Image.open(files[index]) as image:
                    transformed: Tensor = transform(image.convert("RGB"))
                return transformed

        return DataLoader(Images(), self.batch_size, shuffle=True)


def normalise(images: Tensor, spec: ImageSpec) -> Tensor:
    """Pixels in [0, 1] as the teacher expects them."""
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (spec.mean, spec.std))
    return (images - mean) / std


def global_view(images: Tensor) -> Tensor:
    """Every image cropped out of a black border, and mirrored or not."""
    size = images.shape[-1]
    view = v2.Compose([v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip()])
    return torch.stack([view(image) for image in images])


def local_view(images: Tensor) -> Tensor:
    """A box of every image, enlarged, and mirrored or not."""
    crop = v2.RandomResizedCrop(images.shape[-1], (0.25, 1.0), antialias=False)
    view = v2.Compose([crop, v2.RandomHorizontalFlip()])
    return torch.stack([view(image) for image in images])


def disagreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Adversarial term of Fast and CMI: minus KL where both decide alike."""
    divergence = kl(student_logits, teacher_logits)
    alike = student_logits.argmax(1) == teacher_logits.argmax(1)
    return -(divergence * alike).mean()


def jensen_shannon(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """As released for DeepInversion: from the mixture, all clamped; a mean over the batch."""
    student, teacher = (
        (logits / temperature).softmax(1) for logits in (student_logits, teacher_logits)
    )
    mixture = ((student + teacher) / 2).clamp(0.01, 0.99)
    halves = [
        F.kl_div(each.clamp(0.01, 0.99).log(), mixture, reduction="batchmean")
        for each in (student, teacher)
    ]
    return torch.stack(halves).sum() / 2


def kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL of each sample ``[B]``, times the temperature squared."""
    student, teacher = (
        (logits / temperature).log_softmax(1) for logits in (student_logits, teacher_logits)
    )
    each = F.kl_div(student, teacher, reduction="none", log_target=True)
    return each.sum(1) * temperature**2


def student(teacher: Classifier, network: Classifier, spec: ImageSpec, folder: Path) -> Round:
    """A step of the student on 128 images of files."""
    files = Files(folder, spec, 128)
    files.append(torch.rand(1024, 3, spec.image_size, spec.image_size))
    optimizer = SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    batches = iter(files.batches())

    def step() -> None:
        nonlocal batches
        try:
            images = next(batches)
        except StopIteration:
            batches = iter(files.batches())
            images = next(batches)
        with torch.no_grad():
            target = teacher(images)
        optimizer.zero_grad()
        kl(network.train()(images), target, 20.0).mean().backward()
        optimizer.step()

    return step


def dafl(teacher: Classifier, batch: int, spec: ImageSpec) -> Round:
    """A round of DAFL (Chen et al., ICCV 2019): one step of the generator."""
    generator = Generator(image_size=spec.image_size, latent_dim=512, initial_multiplier=4)
    optimizer = Adam(generator.parameters(), lr=1e-3, betas=_BETAS)

    def refresh() -> None:
        optimizer.zero_grad()
        features = teacher.embed(normalise(generator(torch.randn(batch, 512)), spec))
        logits = teacher.head(features)
        one_hot = F.cross_entropy(logits, logits.argmax(1))
        shares = logits.softmax(1).mean(0)
        balance = (shares * shares.log()).sum()
        (one_hot + 20 * balance - 0.001 * features.abs().mean()).backward()
        optimizer.step()

    return refresh


def deepinv(
    teacher: Classifier, network: Classifier, batch: int, steps: int, spec: ImageSpec, folder: Path
) -> Round:
    """A round of DeepInversion (Yin et al., CVPR 2020), adversarial."""
    statistics, files = Statistics(teacher), Files(folder, spec, batch)
    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in (spec.mean, spec.std))

    def refresh() -> None:
        network.eval()
        images = torch.randn(batch, 3, spec.image_size, spec.image_size, requires_grad=True)
        labels = torch.randint(spec.num_classes, (batch,))
        optimizer = Adam([images], lr=0.1, betas=(0.5, 0.99))
        for _ in range(steps):
            shift = torch.randint(-4, 5, (2,)).tolist()
            view = images.roll(shift, (2, 3))
            view = view.flip(3) if torch.rand(()) < 0.5 else view
            logits = teacher(view)
            loss = 10 * statistics.distance() + F.cross_entropy(logits, labels)
            loss = loss - jensen_shannon(network(view), logits, 3.0) + 0.001 * variation(images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            images.data = torch.minimum(torch.maximum(images.data, -mean / std), (1 - mean) / std)
        files.append(images * std + mean)

    return refresh


def variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbours along both axes and both diagonals."""
    across = images[..., 1:] - images[..., :-1]
    down = images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., 1:, 1:] - images[..., :-1, :-1]
    rising = images[..., :-1, 1:] - images[..., 1:, :-1]
    return torch.stack([each.abs().mean() for each in (across, down, falling, rising)]).sum()


def cmi(
    teacher: Classifier, network: Classifier, batch: int, steps: int, spec: ImageSpec, folder: Path
) -> Round:
    """A round of CMI (Fang et al., IJCAI 2021)."""
    statistics, files = Statistics(teacher, pools=True), Files(folder, spec, batch)
    generator = Generator(image_size=spec.image_size, latent_dim=256)
    teacher(torch.zeros(1, 3, spec.image_size, spec.image_size))
    dim = statistics.features().shape[1]
    head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 256))
    head_optimizer = Adam(head.parameters(), lr=1e-3)
    bank = torch.randn(_BANK, 2 * dim)  # full, as in most rounds
    place = 0

    def project(features: Tensor) -> Tensor:
        return F.normalize(head(features), dim=1)

    def refresh() -> None:
        nonlocal place
        network.eval()
        reinitialise(generator)
        latents = torch.randn(batch, 256, requires_grad=True)
        labels = torch.randint(spec.num_classes, (batch,))
        optimizer = Adam([*generator.parameters(), latents], lr=1e-3, betas=_BETAS)
        best, kept, kept_features = float("inf"), torch.empty(0), torch.empty(0)
        for _ in range(steps):
            images = generator(latents)
            view = normalise(global_view(images), spec)
            logits = teacher(view)
            whole = statistics.features()
            loss = statistics.distance() + F.cross_entropy(logits, labels)
            loss = loss + 0.5 * disagreement(network(view), logits)
            teacher(normalise(local_view(images), spec))
            local = statistics.features()
            drawn = bank[torch.randperm(len(bank))[:_NEGATIVES]]
            old_local, old_whole = drawn.chunk(2, dim=1)
            anchors = project(torch.cat([local, old_local]))
            candidates = project(torch.cat([whole, old_whole])).detach()
            each = F.cross_entropy(
                anchors @ candidates.T / 0.1, torch.arange(len(anchors)), reduction="none"
            )
            loss = loss + 0.8 * (each[:batch].mean() + each[batch:].mean())
            if loss.item() < best:
                best, kept = loss.item(), images.detach()
                kept_features = torch.cat([local, whole], dim=1).detach()
            optimizer.zero_grad()
            head_optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            head_optimizer.step()
        bank[place : place + batch] = kept_features
        place = (place + batch) % len(bank)
        files.append(kept)

    return refresh


def fast(
    teacher: Classifier, network: Classifier, batch: int, steps: int, spec: ImageSpec, folder: Path
) -> Round:
    """A round of FastDFKD (Fang et al., AAAI 2022) with MAML."""
    statistics, files = Statistics(teacher, momentum=0.9), Files(folder, spec, batch)
    generator = Generator(image_size=spec.image_size, latent_dim=256)
    outer = Adam(generator.parameters(), lr=steps * 3e-3, betas=_BETAS)

    def refresh() -> None:
        network.eval()
        copy = deepcopy(generator)
        latents = torch.randn(batch, 256, requires_grad=True)
        labels = torch.randint(spec.num_classes, (batch,))
        groups: list[dict[str, Any]] = [
            {"params": copy.parameters()},
            {"params": [latents], "lr": 0.01},
        ]
        inner = Adam(groups, lr=3e-3, betas=_BETAS)
        outer.zero_grad(set_to_none=False)
        best, kept = float("inf"), torch.empty(0)
        for _ in range(steps):
            images = copy(latents)
            view = normalise(global_view(images), spec)
            logits = teacher(view)
            loss = 10 * statistics.distance() + 0.4 * F.cross_entropy(logits, labels)
            loss = loss + 1.1 * disagreement(network(view), logits)
            if loss.item() < best:
                best, kept = loss.item(), images.detach()
            inner.zero_grad()
            loss.backward()
            for own, copied in zip(generator.parameters(), copy.parameters(), strict=True):
                if copied.grad is not None:
                    own.grad = copied.grad + (0 if own.grad is None else own.grad)
            inner.step()
        statistics.remember()
        outer.step()
        files.append(kept)

    return refresh
