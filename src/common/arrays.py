"""Arrays that an option names by a file."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.common.errors import UserError


def open_array(option: str, path: str, expected: str) -> NDArray[Any]:
    """A numeric array of an ``.npy`` file, memory-mapped; no file can execute code here.

    Args:
        option: Dotted name of the option, for messages.
        path: The file.
        expected: What it should be, in words.

    Raises:
        UserError: If it is no regular file, or no such array.
    """
    try:
        if not Path(path).is_file():  # a pipe or a device might never end
            raise FileNotFoundError("no regular file")
        stored: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise UserError(f"Cannot read {option}='{path}' ({error}); expected {expected}") from error
    return stored
