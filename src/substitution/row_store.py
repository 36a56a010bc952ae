"""Rows that only grow in number, in memory or in a file."""

import tempfile
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from src.common.files import flush
from src.common.finite import FiniteWatch

_FIRST_ROWS = 1024
_ROWS_AT_ONCE = 4096


class RowStore(nn.Module):
    """A growing store of rows of one shape and type.

    It lives on its module's device; above ``mapped_above`` bytes it is a memory-mapped file in the
    temporary folder instead. Its rows are outside ``state_dict``, which holds only their number:
    they are saved by :meth:`sync` or :meth:`save`, each store in its own file.

    Args:
        row_shape: Shape of a row.
        dtype: What is kept: uint8, float16 or float32.
        mapped_above: Size above which the store is memory-mapped, bytes.
    """

    _anchor: Tensor

    def __init__(
        self, row_shape: tuple[int, ...], dtype: torch.dtype, *, mapped_above: int = 8 * 2**30
    ) -> None:
        super().__init__()
        self.row_shape, self.dtype, self.mapped_above = row_shape, dtype, mapped_above
        self.length = 0
        self._synced, self._synced_to, self._digest = 0, Path(), xxhash.xxh3_128()
        self._is_mapped = False
        self._watch = FiniteWatch()
        self._rows = torch.empty(0, *row_shape, dtype=dtype)
        self.register_buffer("_anchor", torch.empty(0), persistent=False)

    def __len__(self) -> int:
        return self.length

    @property
    def rows(self) -> Tensor:
        """What is stored, ``[len, *row_shape]``."""
        return self._rows[: self.length]

    @property
    def device(self) -> torch.device:
        """Where rows are used; they lie there, too, unless they are in a file."""
        return self._anchor.device

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.row_shape)) * self.dtype.itemsize

    @property
    def _of_numpy(self) -> np.dtype[Any]:
        return np.dtype(str(self.dtype).removeprefix("torch."))

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if not self._is_mapped:
            self._rows = self._rows.to(self.device)
        return self

    def _room_for(self, rows: int) -> Tensor:
        """New memory, or a new file, ``[rows, *row_shape]``."""
        self._is_mapped = rows * self._row_bytes > self.mapped_above
        if not self._is_mapped:
            return torch.empty(rows, *self.row_shape, dtype=self.dtype, device=self.device)
        with tempfile.NamedTemporaryFile(prefix="kdci_rows_") as file:
            size = rows * int(np.prod(self.row_shape))
            flat = torch.from_file(file.name, shared=True, size=size, dtype=self.dtype)
        return flat.view(rows, *self.row_shape)

    def append(self, rows: Tensor) -> None:
        """Store ``[n, *row_shape]``.

        Nothing here waits for the device; :meth:`require_finite` tells whether all were finite.
        """
        stored = rows.detach().to(self.dtype)
        if stored.is_floating_point():
            self._watch.update(stored)
        needed = self.length + len(stored)
        if needed > len(self._rows):
            old, kept = self.rows, self.length
            self._rows = self._room_for(max(needed, 2 * len(self._rows), _FIRST_ROWS))
            self._rows[:kept] = old
        self._rows[self.length : needed] = stored
        self.length = needed

    def take(self, index: Tensor) -> Tensor:
        """Rows ``[n, *row_shape]`` of ``index [n]``, int64, on this device."""
        return self._rows[index.to(self._rows.device)].to(self.device)

    def require_finite(self, what: str) -> None:
        """Make sure that every row appended by this process is finite as it is stored.

        Args:
            what: Who made the rows, for the message.

        Raises:
            FloatingPointError: If one held NaN, infinity or a value beyond the stored type.
        """
        if not self._watch.is_clean():
            is_half = self.dtype == torch.float16
            beyond = " or exceed half precision (65504)" if is_half else ""
            raise FloatingPointError(
                f"{self._content} of {what} are NaN or infinite{beyond}; nothing was saved after "
                f"them. Lower its learning rate, or {self._cure}"
            )

    @property
    def _content(self) -> str:
        return "Stored maps"

    @property
    def _cure(self) -> str:
        is_half = self.dtype == torch.float16
        return f"use {'baseline.half_maps=false' if is_half else 'trainer.precision=32-true'}"

    def adopt(self, other: "RowStore") -> None:
        """Forget everything and share the rows of another store of the same shape instead."""
        self._rows, self._is_mapped = other.rows, other._is_mapped
        self.length, self._synced = len(other), 0
        self._watch = copy(other._watch)

    def clear(self) -> None:
        """Forget everything, and free its memory or file."""
        self._rows, self.length, self._synced = self._rows.new_empty(0, *self.row_shape), 0, 0
        self._is_mapped = False

    def get_extra_state(self) -> dict[str, int]:
        """The committed number of rows."""
        return {"length": self.length}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Announce how many rows :meth:`restore` will read."""
        self.length = state["length"]

    def sync(self, path: Path) -> tuple[str, int]:
        """Append what is new since the last call to the raw file ``path``; wait for the disk.

        Returns:
            XXH3 of all bytes that count, and their number.
        """
        # Stages (a) and (b) each have a file of their own; what was adopted is written anew.
        if path != self._synced_to or not self._synced:
            self._synced, self._synced_to, self._digest = 0, path, xxhash.xxh3_128()
        with path.open("r+b" if self._synced else "wb") as file:
            file.truncate(self._synced * self._row_bytes)
            file.seek(0, 2)
            for part in self.rows[self._synced :].split(_ROWS_AT_ONCE):
                added = part.cpu().numpy().tobytes()
                file.write(added)
                self._digest.update(added)
        flush(path)
        self._synced = self.length
        return self._digest.hexdigest(), self.length * self._row_bytes

    def restore(self, path: Path) -> None:
        """Read the committed rows back from a raw file of :meth:`sync`."""
        shape = (self.length, *self.row_shape)
        # Mapped, since a store may be larger than the memory.
        stored = np.memmap(path, self._of_numpy, "c", shape=shape) if self.length else None
        self._rows, self._digest = self._room_for(self.length), xxhash.xxh3_128()
        if stored is not None:
            self._rows[:] = torch.from_numpy(stored)
            self._digest.update(stored.data)
        self._synced, self._synced_to = self.length, path

    def save(self, path: Path) -> None:
        """Write the rows as ``.npy``."""
        np.save(path, self.rows.cpu().numpy(), allow_pickle=False)

    def read(self, path: Path) -> None:
        """Take the rows of a file of :meth:`save` over; memory-mapped where it is large."""
        self._is_mapped = path.stat().st_size > self.mapped_above
        stored = np.load(path, mmap_mode="c" if self._is_mapped else None, allow_pickle=False)
        self._rows = torch.from_numpy(stored)
        if not self._is_mapped:
            self._rows = self._rows.to(self.device)
        self.length = len(stored)
