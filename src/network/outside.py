"""Networks of other libraries under the classifier contract."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from src.common.errors import UserError
from src.network.classifier import Classifier, is_under_autocast


class OutsideNetwork(Classifier):
    """Any network whose logits come straight from one linear layer.

    Features are what enters that layer, so nothing has to be known of the network. Its entries
    keep their names behind ``module.``, which checkpoints are read without.

    Args:
        module: Logits ``[B, K]`` of normalised images ``[B, 3, H, W]``.
        head: The linear layer within it.
        name: What to call it in messages.
        stages: Modules within it whose outputs are its stage maps, where they are known.

    Raises:
        UserError: If ``head`` is no linear layer of ``module``; in the first pass, if the logits
            are not what the head makes of the features.
    """

    def __init__(
        self, module: nn.Module, head: Any, name: str, stages: Sequence[str] = ()
    ) -> None:
        super().__init__()
        places = [place for place, layer in module.named_modules() if layer is head]
        if not (places and isinstance(head, nn.Linear)):
            got = "none" if head is None else type(head).__name__
            raise UserError(
                f"Expected '{name}' to end in one linear layer, which gives features and logits, "
                f"but its last layer is {got}; choose another network"
            )
        self.module, self.name = module, name
        self.head_name = f"module.{places[0]}"  # type: ignore[misc]
        self.stage_names = tuple(f"module.{stage}" for stage in stages)
        self._is_tried = False

    def embed(self, images: Tensor) -> Tensor:
        """What enters the last layer, ``[B, d]``."""
        entered: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        try:
            logits = self._logits(images)
        finally:
            hook.remove()
        if not self._is_tried and not images.is_meta:
            self._try(entered, logits)
        return entered[0]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[B, K]``."""
        if is_under_autocast(images):
            return super().forward(images)
        return self._logits(images)  # type: ignore[no-any-return]

    def _logits(self, images: Tensor) -> Any:
        """Of the last layer alone: in training, some return those of auxiliary heads too."""
        made = self.module(images)
        return getattr(made, "logits", made)

    @torch.no_grad()
    def _try(self, entered: list[Tensor], logits: Any) -> None:
        """Once, that the head makes the logits; a scale or a second head after it would not do."""
        made = self.head(entered[0]) if len(entered) == 1 and entered[0].ndim == 2 else None
        if made is None or not isinstance(logits, Tensor) or logits.shape != made.shape:
            raise UserError(
                f"Expected '{self.name}' to make logits [B, K] of features [B, d] in its last "
                "layer, once; choose another network"
            )
        if not torch.allclose(made.float(), logits.float(), rtol=0.02, atol=0.02):
            raise UserError(
                f"Expected the logits of '{self.name}' to be what its last layer makes of the "
                "features, but they are something else; choose another network"
            )
        self._is_tried = True
