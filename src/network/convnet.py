"""A small plain network for runs on a laptop's CPU."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from src.common.errors import UserError
from src.network.classifier import Classifier


class ConvNet(Classifier):
    """Stages of 3x3 convolution, BN and ReLU; every stage but the first halves the resolution.

    It is none of the published networks: it exists so that a whole run fits a laptop, and has the
    batch normalisation that inverting a teacher needs.

    Args:
        widths: Number of channels of every stage.
        num_classes: K.

    Raises:
        UserError: If ``widths`` is empty or holds a number below 1.
    """

    head_name = "fc"

    def __init__(self, widths: Sequence[int], *, num_classes: int) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise UserError(f"Expected ConvNet `widths` to be positive numbers, but got {widths}")
        layers: list[nn.Module] = []
        for stage, (in_width, width) in enumerate(pairwise((3, *widths))):
            stride = 1 if stage == 0 else 2
            conv = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        self.stages = nn.Sequential(*layers)
        self.stage_names = tuple(f"stages.{i}" for i in range(2, len(layers), 3))
        self.fc = nn.Linear(widths[-1], num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """Pooled output ``[B, widths[-1]]`` of the last stage."""
        maps: Tensor = self.stages(images)
        return maps.mean(dim=(2, 3))
