"""How the C library of this process deals with memory that was freed.

glibc gives large blocks back to the system at once, so that every step of a training on the CPU
has its activations zeroed and mapped anew, page by page. Elsewhere (macOS, musl) nothing is done.
"""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
_NEVER = -1
_LARGEST_KEPT = (2**30, 2**25)  # bytes; glibc before 2.35 takes no more than the second


def keep_freed_memory() -> bool:
    """Let this process use freed memory again instead of giving it back; whether that was done."""
    library = _glibc()
    if library is None:
        return False
    # In this order: whoever sets the other one alone has every small block mapped anew.
    is_set = any(library.mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_KEPT)
    return is_set and library.mallopt(_TRIM_THRESHOLD, _NEVER) == 1


def give_freed_memory_back() -> None:
    """Give back what is kept, so that it does not count as memory of what comes next."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  only glibc has it
    except (AttributeError, OSError, TypeError):
        return None
    return library
