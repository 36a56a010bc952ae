"""Tensors in files."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write ``tensors`` as safetensors, readable by whom the umask says.

    The library alone makes files that only their owner can read, of whatever mode they were: no
    other user of a shared cache could.

    Args:
        tensors: Contiguous, on the CPU.
        path: The file; replaced if it exists.
        metadata: Words for its header.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata)
    path.chmod(mode)
