"""Memory of a process: how much its tensors took at most, and what the C library does with what they leave."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import torch

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


class PeakMemory:
    """The peak memory since it was made: of the device on a GPU, else of this process.

    Attributes:
        kind: "device" or "resident_set".
    """

    def __init__(self, device: torch.device) -> None:
        give_back()  # else the peak would be that of an earlier trial
        self.kind = "device" if device.type == "cuda" else "resident_set"
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the peak so far
        except OSError:
            return  # elsewhere the figure is the peak of the process's whole life

    def peak_bytes(self) -> int:
        """Return the peak in bytes."""
        if self.kind == "device":
            return int(torch.cuda.max_memory_allocated())
        try:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        except OSError:
            pass
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
