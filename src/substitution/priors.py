"""Priors that a teacher gives on images, for generators that are trained against them."""

from torch import Tensor

from src.objective.inversion import balance_loss, bn_statistics_loss, one_hot_loss
from src.teacher.frozen import FrozenTeacher
from src.teacher.tap import tap


def priors(
    teacher: FrozenTeacher, images: Tensor, temperature: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the teacher says of ``images``, and how far they are from what it was trained on.

    Args:
        teacher: The frozen teacher.
        images: ``[B, C, H, W]``, as it expects them.
        temperature: Divides its logits in ``balance``.

    Returns:
        Its logits ``[B, K]``, and three scalars: ``bn``, the distance of the batch's statistics
        from those of its BatchNorm layers; ``one_hot``, what its predictions lack in confidence;
        ``balance``, what they lack in balance, in nats.
    """
    with tap(teacher) as heard:
        logits = teacher(images).logits
        bn = bn_statistics_loss(heard.statistics(), heard.target)
    balance = balance_loss(logits / temperature)
    return logits, {"bn": bn, "one_hot": one_hot_loss(logits), "balance": balance}
