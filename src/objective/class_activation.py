"""Class activation: student and teacher shall see the classes at the same places."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.common.errors import UserError
from src.objective.attention_transfer import require_alike
from src.objective.distillation import StudentOutput, kl_divergence, positive_temperature
from src.objective.precision import at_least_float32, backward_pass


def class_slopes(logits: Tensor, maps: Sequence[Tensor], classes: Tensor) -> tuple[Tensor, ...]:
    """How steeply the logit of a class rises with every channel of the stage maps; constants.

    ``[B, C_l]`` for maps ``[B, C_l, H_l, W_l]``: the gradient of the sum of the chosen logits,
    averaged over positions. So BatchNorm in train mode lets an image count for the others, too.

    Args:
        logits: ``[B, K]``, with a graph from ``maps``, which stays.
        maps: Of every stage.
        classes: ``[B]`` int64.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017, arXiv:1610.02391.
    """
    chosen = logits.gather(1, classes.unsqueeze(1)).sum()
    with backward_pass(chosen):
        gradients = torch.autograd.grad(chosen, list(maps), retain_graph=True)
    return tuple(at_least_float32(each).flatten(2).mean(2) for each in gradients)


def gradient_map(maps: Tensor, slopes: Tensor) -> Tensor:
    """``[B, H, W]``: channels of ``[B, C, H, W]`` weighed by ``slopes [B, C]``; without a ReLU."""
    return (at_least_float32(maps) * slopes[:, :, None, None]).sum(1)


def class_maps(maps: Tensor, head: Tensor) -> Tensor:
    """``[B, K, H, W]``: what the last layer's weights ``[K, C]`` make of maps ``[B, C, H, W]``.

    Raises:
        UserError: If the last layer reads anything but one number of each channel.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016,
    arXiv:1512.04150.
    """
    require_read(maps, head)
    with torch.autocast(maps.device.type, enabled=False):
        wide = at_least_float32(maps)
        return F.conv2d(wide, head.to(wide.dtype)[:, :, None, None])


def require_read(maps: Tensor, head: Tensor) -> None:
    """Refuse a last layer ``[K, d]`` that does not read one number of each channel of ``maps``.

    Raises:
        UserError: If ``d`` is another than C of ``[B, C, H, W]``.
    """
    if maps.shape[1] != head.shape[1]:
        raise UserError(
            f"Expected a last layer that reads the {maps.shape[1]} channels of the last stage "
            f"map, of which the loss makes class activation maps, but it reads {head.shape[1]} "
            "features; choose another network, or baseline.attention_weight=0"
        )


class ClassActivationObjective(nn.Module):
    """Mean KL over batch and classes, and distances of class activation maps; teacher constant.

    ``tau^2 mean KL + w (mse(M_S, M_T) + sum_l mse(G_S,l, G_T,l))``. M are the class activation
    maps of the last stage, of all classes; G_l is Grad-CAM at stage l for the class that the
    teacher predicts, in both networks, its weights constant. ``mse`` is the mean over everything,
    and the mean of the KL over the classes, too: 1/K of what other objectives have.

    Args:
        temperature: tau > 0.
        weight: w >= 0; at 0 no maps are read.
        teacher_head: Weights ``[K, d]`` of the teacher's last layer.

    Raises:
        UserError: If ``temperature`` is not positive; in the first step, if stages differ, or a
            last layer does not read the channels of the last stage.

    Source: Yu et al., Data-Free Knowledge Distillation via Feature Exchange and Activation Region
    Constraint, CVPR 2023.
    """

    teacher_head: Tensor

    def __init__(self, temperature: float, weight: float, teacher_head: Tensor) -> None:
        super().__init__()
        self.temperature, self.weight = positive_temperature(temperature), weight
        self.reads_maps = self.reads_slopes = weight > 0
        # Not saved: it is the teacher's.
        self.register_buffer("teacher_head", teacher_head.detach().clone(), persistent=False)

    def forward(
        self,
        output: StudentOutput,
        teacher_logits: Tensor,
        teacher_maps: Sequence[Tensor] = (),
        teacher_slopes: Sequence[Tensor] = (),
    ) -> Tensor:
        """Return the scalar loss of ``output`` against what the teacher says and sees."""
        divergence = kl_divergence(output.logits, teacher_logits.detach(), self.temperature)
        loss = divergence / teacher_logits.shape[1]
        if not self.weight:
            return loss
        maps, constant = output.maps or (), [each.detach() for each in teacher_maps]
        require_alike(maps, constant)
        # Detached: these maps teach the student's features, not its classifier.
        seen = class_maps(maps[-1], cast("Tensor", output.head).detach())
        distances = [F.mse_loss(seen, class_maps(constant[-1], self.teacher_head))]
        slopes = class_slopes(output.plain_logits, maps, teacher_logits.argmax(1))
        for mine, my, its, of_teacher in zip(maps, slopes, constant, teacher_slopes, strict=True):
            wanted = gradient_map(its, of_teacher.detach())
            distances.append(F.mse_loss(gradient_map(mine, my), wanted))
        return loss + self.weight * torch.stack(distances).sum()
