"""VGG-8/11/13 with batch normalisation for small images."""

from torch import Tensor, nn
from torch.nn import functional as F

from src.common.errors import UserError
from src.network.classifier import Classifier

_CONVS_PER_BLOCK = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2)}


def _block(in_width: int, width: int, num_convs: int) -> nn.Sequential:
    """Convolution, BN and ReLU ``num_convs`` times; the last ReLU is left to the caller."""
    layers: list[nn.Module] = []
    for i in range(num_convs):
        conv = nn.Conv2d(in_width if i == 0 else width, width, 3, padding=1)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class VGG(Classifier):
    """VGG with batch normalisation and one linear layer on pooled features.

    Differs from the paper: batch normalisation; one linear layer instead of three; the pooling
    after the fourth block only at a height of 64 pixels, so that 32-pixel images keep a 4x4 grid;
    depth 8 is none of its layouts.

    Args:
        depth: 8, 11 or 13.
        num_classes: K.

    Raises:
        UserError: If ``depth`` is another number.

    Source: Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image
    Recognition, ICLR 2015, arXiv:1409.1556, configurations A and B.
    """

    head_name = "classifier"
    stage_names = ("block0", "block1", "block2", "block3", "block4")

    def __init__(self, depth: int, *, num_classes: int) -> None:
        super().__init__()
        if depth not in _CONVS_PER_BLOCK:
            allowed = [*_CONVS_PER_BLOCK]
            raise UserError(f"Expected VGG `depth` to be one of {allowed}, but got {depth}")
        n0, n1, n2, n3, n4 = _CONVS_PER_BLOCK[depth]
        self.block0 = _block(3, 64, n0)
        self.block1 = _block(64, 128, n1)
        self.block2 = _block(128, 256, n2)
        self.block3 = _block(256, 512, n3)
        self.block4 = _block(512, 512, n4)
        self.classifier = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Pooled output ``[B, 512]`` of the last block."""
        maps = images
        for block in (self.block0, self.block1, self.block2):
            maps = F.max_pool2d(F.relu(block(maps)), 2)
        maps = F.relu(self.block3(maps))
        if images.shape[-2] == 64:
            maps = F.max_pool2d(maps, 2)
        return F.relu(self.block4(maps)).mean(dim=(2, 3))
