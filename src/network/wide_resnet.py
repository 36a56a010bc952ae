"""Wide residual networks for small images."""

from torch import Tensor, nn
from torch.nn import functional as F

from src.common.errors import UserError
from src.network.classifier import Classifier


class _Block(nn.Module):
    """Pre-activation block: BN, ReLU, 3x3 convolution, twice."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        if in_width != width:
            # The name is that of the published checkpoints.
            self.convShortcut = nn.Conv2d(in_width, width, 1, stride, bias=False)
        self.is_projected = in_width != width

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        # A projection reads the activated input, the identity the raw one.
        return out + (self.convShortcut(activated) if self.is_projected else x)


class _Group(nn.Module):
    """Blocks of one width, the first of which changes width and resolution."""

    def __init__(self, in_width: int, width: int, num_blocks: int, stride: int) -> None:
        super().__init__()
        rest = [_Block(width, width, 1) for _ in range(num_blocks - 1)]
        self.layer = nn.Sequential(_Block(in_width, width, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(Classifier):
    """WRN-``depth``-``width`` without dropout; stages of 16, 32 and 64 times ``width`` channels.

    Args:
        depth: Number of convolutions, 6n + 4 for n blocks in each of the three groups.
        width: Widening factor.
        num_classes: K.

    Raises:
        UserError: If ``depth`` is not 6n + 4 with n >= 1, or ``width`` is below 1.

    Source: Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016, arXiv:1605.07146.
    """

    head_name = "fc"
    stage_names = ("block1", "block2", "block3")

    def __init__(self, depth: int, width: int, *, num_classes: int) -> None:
        super().__init__()
        num_blocks, remainder = divmod(depth - 4, 6)
        if num_blocks < 1 or remainder:
            raise UserError(
                f"Expected WideResNet `depth` to be 6n + 4 (10, 16, 22, ...), but got {depth}"
            )
        if width < 1:
            raise UserError(f"Expected WideResNet `width` to be at least 1, but got {width}")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = _Group(16, 16 * width, num_blocks, stride=1)
        self.block2 = _Group(16 * width, 32 * width, num_blocks, stride=2)
        self.block3 = _Group(32 * width, 64 * width, num_blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Pooled output ``[B, 64 * width]`` of the last BN and ReLU."""
        maps = self.block3(self.block2(self.block1(self.conv1(images))))
        return F.relu(self.bn1(maps)).mean(dim=(2, 3))
