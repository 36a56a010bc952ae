"""Slow, literal MosaicKD: the losses of one round and their gradients."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tests.reference import adversarial
from tests.reference.distillation import kl_divergence
from tests.reference.inversion import align, balance
from tests.reference.sums import total


def discriminator_step(
    discriminator: nn.Module, fake: Tensor, real: Tensor, weight: float
) -> tuple[Tensor, list[Tensor]]:
    """L_D without its weight, and the gradients of its weighted form."""
    loss = adversarial.patch_discriminator(discriminator(fake.detach()), discriminator(real))
    gradients = torch.autograd.grad(weight * loss, list(discriminator.parameters()))
    return loss.detach(), list(gradients)


def generator_step(
    generator: nn.Module,
    discriminator: nn.Module,
    moved: dict[str, Tensor],
    teacher: nn.Module,
    student: nn.Module,
    latents: Tensor,
    weights: dict[str, float],
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Terms of L_G and its gradients; the discriminator has the parameters ``moved``.

    Images are normalised to 2 u - 1.
    """
    x = 2 * generator(latents) - 1
    t, s = teacher(x), student(x)
    terms = {
        "local": adversarial.patch_generator(functional_call(discriminator, moved, (x,))),
        "align": align(t),
        "adversarial": -kl_divergence(s, t, 1.0),
        "balance": balance(t, 2.0),
    }
    loss = total(weights[name] * term for name, term in terms.items())
    gradients = torch.autograd.grad(loss, list(generator.parameters()))
    return {name: term.detach() for name, term in terms.items()}, list(gradients)
