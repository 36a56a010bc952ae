"""The Fréchet distance between two sets of features."""

import math

from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance


class _Given(nn.Module):
    """Stands where an extractor is expected: the features have been extracted already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


class FrechetDistance:
    """``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`` between Gaussians of two sets of features.

    The figure that is known as FID, but of whatever features are given: only values of the same
    extractor compare. Both sets are summarised batch by batch, in float64, on the CPU.

    Args:
        dim: Width of the features.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium, NeurIPS 2017, arXiv:1706.08500.
    """

    def __init__(self, dim: int) -> None:
        # Only rank 0 measures: waiting for the others would be for ever.
        self._metric = FrechetInceptionDistance(_Given(dim), sync_on_compute=False)
        self.images = self.originals = 0

    def add_images(self, features: Tensor) -> None:
        """Features ``[n, dim]`` of images that are measured."""
        self._metric.update(features.cpu().double(), real=False)
        self.images += len(features)

    def add_originals(self, features: Tensor) -> None:
        """Features ``[n, dim]`` of images that they are compared with."""
        self._metric.update(features.cpu().double(), real=True)
        self.originals += len(features)

    def value(self) -> float | None:
        """The distance, at least 0; None where a set has fewer than two images, or of NaN."""
        if min(self.images, self.originals) < 2:
            return None
        distance = float(self._metric.compute())
        return max(distance, 0.0) if math.isfinite(distance) else None
