"""Distribution of stage (a): processes in lockstep, without a wrapper around the module."""

from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch import nn


class UnwrappedDDPStrategy(DDPStrategy):
    """DDP's processes and reductions, but the module stays as it is.

    Wrapped, DDP would copy rank 0's bank over the others', meet graphs of several optimisers,
    and refuse a module without trainable parameters. Baselines average gradients themselves.
    """

    def _setup_model(self, model: nn.Module) -> Any:
        return model

    def _register_ddp_hooks(self) -> None:
        """Hooks belong to the wrapper."""
