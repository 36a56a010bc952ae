"""What a GPU would be waited for, seen on a CPU."""

from typing import Any

from torch import Tensor
from torch import bool as boolean
from torch.utils._python_dispatch import TorchDispatchMode

# Their result, or its size, is only known once the device has done all that was asked before.
_WAITING = (
    "_local_scalar_dense",  # item(), float(), bool(), int()
    "bincount",
    "equal",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
)


class Waits(TorchDispatchMode):
    """Names of the operations within that make the host wait for its device.

    What it does not see: copies from and to the host, since all lies there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        is_counted = name == "repeat_interleave" and "output_size" not in (kwargs or {})
        if name in _WAITING or is_counted or (name.startswith("index") and _masked(args)):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def _masked(args: Any) -> bool:
    """Whether rows are chosen by a mask, which has to be counted."""
    indices = args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()
    return any(isinstance(each, Tensor) and each.dtype == boolean for each in indices)
