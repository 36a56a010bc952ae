"""ResNet-18/34/50 for small images."""

from torch import Tensor, nn
from torch.nn import functional as F

from src.common.errors import UserError
from src.network.classifier import Classifier


def _shortcut(in_width: int, out_width: int, stride: int) -> nn.Sequential:
    """Projection where the shape changes, else the identity."""
    if stride == 1 and in_width == out_width:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(in_width, out_width, 1, stride, bias=False), nn.BatchNorm2d(out_width)
    )


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, activation after the sum."""

    expansion = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_width, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class _Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width, activation after the sum."""

    expansion = 4

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        out_width = self.expansion * width
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_width)
        self.shortcut = _shortcut(in_width, out_width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.shortcut(x))


_Block = type[_BasicBlock] | type[_Bottleneck]
_LAYOUTS: dict[int, tuple[_Block, tuple[int, int, int, int]]] = {
    18: (_BasicBlock, (2, 2, 2, 2)),
    34: (_BasicBlock, (3, 4, 6, 3)),
    50: (_Bottleneck, (3, 4, 6, 3)),
}


def _stage(
    block: _Block, in_width: int, width: int, num_blocks: int, stride: int
) -> nn.Sequential:
    """``num_blocks`` blocks, the first of which changes width and resolution."""
    out_width = block.expansion * width
    rest = [block(out_width, width, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(block(in_width, width, stride), *rest)


class ResNet(Classifier):
    """ResNet with a 3x3 stem and no max-pool, for images of 32 or 64 pixels.

    Differs from the paper: its ImageNet layouts on small images, not its narrower CIFAR layouts;
    the bottleneck has its stride in the 3x3 convolution.

    Args:
        depth: 18, 34 or 50.
        num_classes: K.

    Raises:
        UserError: If ``depth`` is another number.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385.
    """

    head_name = "linear"
    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, depth: int, *, num_classes: int) -> None:
        super().__init__()
        if depth not in _LAYOUTS:
            raise UserError(f"Expected ResNet `depth` to be one of {[*_LAYOUTS]}, but got {depth}")
        block, (n1, n2, n3, n4) = _LAYOUTS[depth]
        expansion = block.expansion
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(block, 64, 64, n1, stride=1)
        self.layer2 = _stage(block, 64 * expansion, 128, n2, stride=2)
        self.layer3 = _stage(block, 128 * expansion, 256, n3, stride=2)
        self.layer4 = _stage(block, 256 * expansion, 512, n4, stride=2)
        self.linear = nn.Linear(512 * expansion, num_classes)

    def embed(self, images: Tensor) -> Tensor:
        """Pooled output ``[B, d]`` of the last stage; d = 512, and 2048 at depth 50."""
        maps: Tensor = F.relu(self.bn1(self.conv1(images)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)
        return maps.mean(dim=(2, 3))
