"""What the C library does with memory that tensors leave: on Linux it asks the system for it anew at every step."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT = 2**30


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def keep_freed_memory() -> None:
    """Have this process keep freed memory up to 1 GiB for the next tensors, until `give_back`."""
    library = _glibc()
    if library is not None:
        library.mallopt(MMAP_THRESHOLD, KEPT)
        library.mallopt(TRIM_THRESHOLD, KEPT)


def give_back() -> None:
    """Give what this process has kept and does not use back to the system: the next peak is then its own."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
