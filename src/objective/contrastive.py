"""CMI: two views of one image must recognise each other among all images made so far."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.objective.precision import at_least_float32


class ContrastiveHead(nn.Module):
    """Projection of teacher features onto the unit sphere: Linear, ReLU, Linear, normalise.

    Args:
        feature_dim: D, width of the teacher features, and of the hidden layer.
        projection_dim: Width of the projection.

    Source: Fang et al., Contrastive Model Inversion, IJCAI 2021, arXiv:2105.08584.
    """

    def __init__(self, feature_dim: int, projection_dim: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Linear(feature_dim, projection_dim),
        )

    def forward(self, *features: Tensor) -> Tensor:
        """Map rows ``[R_i, D]``, in order, to ``[sum R_i, projection_dim]`` of length 1.

        The result is at least float32. Rows that need a gradient are best given apart from those
        that need none: then the first layer computes none for these.
        """
        first, *others = self.layers
        hidden = torch.cat([first(rows) for rows in features])
        for layer in others:
            hidden = layer(hidden)
        return F.normalize(at_least_float32(hidden), dim=1)


def info_nce(anchors: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each anchor to find its own candidate among all.

    ``e_i = -log softmax_j(a_i . b_j / tau)_i``; one-directional, and b is held constant.

    Args:
        anchors: Unit rows a ``[R, d]``.
        candidates: Unit rows b ``[R, d]``, row i belonging to anchor i; detached here.
        temperature: tau > 0.

    Returns:
        ``[R]``, nats, at least float32.

    Source: Fang et al., Contrastive Model Inversion, IJCAI 2021, arXiv:2105.08584.
    """
    # Autocast would multiply in bfloat16, whose error the division by tau then magnifies.
    with torch.autocast(anchors.device.type, enabled=False):
        scaled = at_least_float32(anchors) / temperature
        similarity = scaled @ at_least_float32(candidates.detach()).t()
    targets = torch.arange(len(anchors), device=anchors.device)
    return F.cross_entropy(similarity, targets, reduction="none")


def contrastive_loss(
    anchors: Tensor, candidates: Tensor, num_fresh: int, temperature: float
) -> Tensor:
    """Contrastive term: mean over the fresh rows plus mean over the rows out of the bank.

    Args:
        anchors: Projected local views ``[N + M, d]``: fresh rows first, then those of the bank.
        candidates: Projected global views, in the same order; detached here.
        num_fresh: N, rows of the batch now being made; M = 0 while the bank is empty.
        temperature: tau > 0.

    Returns:
        Scalar, nats; the first mean alone while the bank is empty.

    Source: Fang et al., Contrastive Model Inversion, IJCAI 2021, arXiv:2105.08584.
    """
    errors = info_nce(anchors, candidates, temperature)
    fresh, banked = errors[:num_fresh], errors[num_fresh:]
    # The mean of no rows is NaN, and would poison the choice of the best iterate.
    return fresh.mean() + banked.mean() if len(banked) else fresh.mean()
