"""ImageNet networks: torchvision's modules under torchvision's keys, without its weights."""

from torch import Tensor, nn
from torchvision import models

from src.common.errors import UserError
from src.network.classifier import Classifier

_RESNETS = {18: models.resnet18, 34: models.resnet34, 50: models.resnet50}


class ImageNetResNet(Classifier):
    """ResNet with a 7x7 stem and a max-pool, for images of 224 pixels.

    Args:
        depth: 18, 34 or 50.
        num_classes: K.

    Raises:
        UserError: If ``depth`` is another number.

    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385.
    """

    head_name = "fc"
    stage_names = ("layer1", "layer2", "layer3", "layer4")

    def __init__(self, depth: int, *, num_classes: int) -> None:
        super().__init__()
        if depth not in _RESNETS:
            allowed = [*_RESNETS]
            raise UserError(f"Expected ImageNet ResNet `depth` in {allowed}, but got {depth}")
        # Adopting the children, not wrapping the network, keeps its state-dict keys.
        for name, layer in _RESNETS[depth](weights=None, num_classes=num_classes).named_children():
            self.add_module(name, layer)

    def embed(self, images: Tensor) -> Tensor:
        """Pooled output ``[B, d]`` of the last stage; d = 512, and 2048 at depth 50."""
        features = images
        for name, layer in self.named_children():
            if name != self.head_name:
                features = layer(features)
        return features.flatten(1)


class ImageNetMobileNetV2(Classifier):
    """MobileNetV2 of width 1, for images of 224 pixels.

    Args:
        num_classes: K.

    Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018,
    arXiv:1801.04381.
    """

    head_name = "classifier.1"
    # The last block of every resolution from a quarter on, as ResNets have their stages.
    stage_names = ("features.3", "features.6", "features.13", "features.17")

    def __init__(self, *, num_classes: int) -> None:
        super().__init__()
        network = models.mobilenet_v2(weights=None, num_classes=num_classes)
        self.features: nn.Sequential = network.features
        self.classifier: nn.Sequential = network.classifier

    def embed(self, images: Tensor) -> Tensor:
        """Pooled output ``[B, 1280]`` of the last convolution, after dropout when training."""
        dropout = self.classifier[0]
        features: Tensor = dropout(self.features(images).mean(dim=(2, 3)))
        return features
