"""Networks of timm, by name."""

from typing import Any

from torch import nn

from src.common.errors import MissingExtraError, UserError, nearest
from src.network.outside import OutsideNetwork

_FIRST_REDUCTION = 4


class TimmNetwork(OutsideNetwork):
    """A network of timm, untrained; see its ``list_models``.

    Args:
        name: E.g. ``resnet26d``.
        num_classes: K.
        options: Further arguments of ``timm.create_model``, e.g. ``{img_size: 32}``.

    Raises:
        MissingExtraError: If timm is not installed.
        UserError: If it has no such network, or one without a linear last layer.
    """

    def __init__(
        self, name: str, *, num_classes: int, options: dict[str, Any] | None = None
    ) -> None:
        try:
            import timm
        except ImportError as error:
            raise MissingExtraError("timm", "timm") from error
        if not timm.is_model(name):
            raise UserError(f"Unknown network of timm '{name}'{nearest(name, timm.list_models())}")
        try:
            network = timm.create_model(
                name, pretrained=False, num_classes=num_classes, **options or {}
            )
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"Cannot build '{name}' of timm ({error})") from error
        head: Any = network.get_classifier()  # type: ignore[operator]
        super().__init__(network, head, name, _stages(network))


def _stages(network: Any) -> list[str]:
    """Modules that timm itself takes maps from, beginning where a ResNet's first stage ends."""
    if getattr(network, "output_fmt", "NCHW") != "NCHW":  # windows and tokens, no maps of channels
        return []
    known = getattr(network, "feature_info", None) or ()
    names = [found["module"] for found in known if found["reduction"] >= _FIRST_REDUCTION]
    modules = dict(network.named_modules())
    return names if all(name in modules and _has_channels(modules[name]) for name in names) else []


def _has_channels(stage: nn.Module) -> bool:
    """Whether channels come second in what it works on; not all of timm's networks say so."""
    return any(isinstance(module, nn.BatchNorm2d) for module in stage.modules())
