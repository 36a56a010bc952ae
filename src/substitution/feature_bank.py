"""Features of the images made last, in a ring on the device."""

from typing import Any

import torch
from torch import Tensor, nn


class FeatureBank(nn.Module):
    """A first-in-first-out store of feature rows.

    All memory is taken at once: ``capacity * width`` float32. The state holds only the rows that
    are in use, so an early checkpoint is small.

    Args:
        capacity: Rows kept; older ones are overwritten.
        width: Length of a row.
    """

    rows: Tensor

    def __init__(self, capacity: int, width: int) -> None:
        super().__init__()
        self.capacity, self.written = capacity, 0
        self.register_buffer("rows", torch.zeros(capacity, width), persistent=False)

    def __len__(self) -> int:
        # Not the write pointer: that is 0 again when the ring is exactly full.
        return min(self.written, self.capacity)

    def append(self, rows: Tensor) -> None:
        """Store ``[n, width]`` over the oldest rows; of more than there is room for, the last."""
        self.written += len(rows)
        kept = rows.detach()[-self.capacity :]
        places = torch.arange(self.written - len(kept), self.written, device=kept.device)
        self.rows[places % self.capacity] = kept

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` different rows ``[n, width]`` uniformly, or all while there are fewer."""
        order = torch.randperm(len(self), generator=generator, device=generator.device)
        return self.rows[order[:n].to(self.rows.device)]

    def get_extra_state(self) -> dict[str, Any]:
        """The rows in use, copied to the CPU, and how many were ever written."""
        used = self.rows[: len(self)].to("cpu", copy=True)
        return {"rows": used, "written": self.written}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Load them."""
        self.written = state["written"]
        self.rows[: len(self)] = state["rows"].to(self.rows.device)
