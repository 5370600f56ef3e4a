"""What memory this machine has left, and what a process and its children hold; from Linux's /proc."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def free_bytes() -> int | None:
    """Return the memory that processes may still take; ``None`` where that cannot be known."""
    try:
        lines = dict(line.split(":", 1) for line in (PROC / "meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None
    try:  # a container may have less than its machine
        most, taken = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return min(free, int(most) - int(taken))
    except (OSError, ValueError):
        return free


def tree_bytes(without: Collection[int] = ()) -> int:
    """Return what this process and its descendants hold, what they share counted once; 0 where that is not known.

    Args:
        without: Ids of processes that are left out.
    """
    parents = {}
    for entry in PROC.iterdir() if PROC.is_dir() else ():
        if entry.name.isdigit():
            try:
                # The name in brackets may hold anything: the parent's id is the second field after it.
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue  # it has ended
    tree = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(held_bytes(process) for process in tree - {*without})


def held_bytes(process: int, kind: str = "Pss") -> int:
    """Return what a process holds: ``Pss`` with its part of what it shares with others, ``Rss`` with all of that."""
    try:
        for line in (PROC / str(process) / "smaps_rollup").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return 0
