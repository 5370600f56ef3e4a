"""Entries that installed packages add to a table, through Python's entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TypeVar

T = TypeVar("T")


def with_plugins(table: dict[str, T], group: str) -> dict[str, T]:
    """Return the table with what other packages register under ``group``, for example ``sweeper.tasks``.

    Raises:
        ValueError: a package registers a name that is taken.
    """
    found = dict(table)
    for entry in entry_points(group=group):
        if entry.name in found:
            raise ValueError(f"{entry.value} registers {entry.name!r} in {group}, but that name is taken")
        found[entry.name] = entry.load()
    return found
