"""Tensors in files."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
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

    Raises:
        OSError: If the disk does not take it.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:
        # It has removed its own file by now: a disk that was full takes a probe again.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
    path.chmod(mode)
