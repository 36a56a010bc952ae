"""NumPy arrays of a torch file, read as bytes and numbers: nothing of NumPy's pickling runs."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

_KINDS = "fiub"  # float, int, unsigned, bool: what is no plain number has no place in weights


class StoredType:
    """Stands in for a ``numpy.dtype`` while a file is read."""

    name, order = "", "="

    def __init__(self, name: Any = "", *_: Any) -> None:
        self.name = str(name)

    def __setstate__(self, state: Any) -> None:
        self.order = str(state[1])


class StoredArray:
    """Stands in for a ``numpy.ndarray`` while a file is read."""

    state: Any = ()

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """The numbers; None if these are none, or not as many as the shape says."""
        try:
            _, shape, kind, is_fortran, raw = self.state
            dtype = np.dtype(kind.name).newbyteorder(kind.order if kind.order in "<>" else "=")
            if dtype.kind not in _KINDS:
                return None
            flat = np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="))
            array = flat.reshape(shape, order="F" if is_fortran else "C")
            return torch.from_numpy(np.ascontiguousarray(array).reshape(shape))
        except (TypeError, ValueError, AttributeError):
            return None


def _rebuild(*_: Any) -> StoredArray:
    return StoredArray()


def _scalar(*_: Any) -> None:
    """Accuracies and the like: nobody reads them."""


# NumPy 2 renamed its core; files of either name it.
NUMPY = (
    (StoredType, "numpy.dtype"),
    (StoredArray, "numpy.ndarray"),
    (_rebuild, "numpy._core.multiarray._reconstruct"),
    (_rebuild, "numpy.core.multiarray._reconstruct"),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),
)
