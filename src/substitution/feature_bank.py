"""Features of the images made last, in a ring on the device."""

from typing import Any

import torch
from torch import Tensor, nn

from src.common.errors import UserError


class FeatureBank(nn.Module):
    """A first-in-first-out store of feature rows.

    All memory is taken at once: ``capacity * width`` float32. The state holds only the rows that
    are in use, so an early checkpoint is small.

    Args:
        capacity: Rows kept; older ones are overwritten.
        batch_size: Rows of one :meth:`append`.
        width: Length of a row.

    Raises:
        UserError: If ``capacity`` is no multiple of ``batch_size``.
    """

    rows: Tensor

    def __init__(self, capacity: int, batch_size: int, width: int) -> None:
        super().__init__()
        if capacity % batch_size:
            raise UserError(
                f"Expected the feature bank's capacity to be a multiple of the batch size "
                f"{batch_size}, but got {capacity}; change baseline.bank_capacity"
            )
        self.capacity, self.batch_size = capacity, batch_size
        self.written = 0
        self.register_buffer("rows", torch.zeros(capacity, width), persistent=False)

    def __len__(self) -> int:
        # Not the write pointer: that is 0 again when the ring is exactly full.
        return min(self.written, self.capacity)

    def append(self, rows: Tensor) -> None:
        """Store ``[batch_size, width]`` over the oldest rows.

        Raises:
            ValueError: If there are more or fewer rows.
        """
        if len(rows) != self.batch_size:
            raise ValueError(f"Expected {self.batch_size} rows, but got {len(rows)}")
        start = self.written % self.capacity
        self.rows[start : start + self.batch_size] = rows.detach()
        self.written += self.batch_size

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
