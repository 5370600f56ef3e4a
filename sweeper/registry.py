"""Tables of entries by name: what installed packages add to them, and families that know more names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from sweeper.suggest import no_such

T = TypeVar("T")

ORIGINS: dict[tuple[str, str], str] = {}
"""Group and name of what a plugin added -> its package and version."""


def with_plugins(table: dict[str, T], group: str) -> dict[str, T]:
    """Return the table with what other packages register under ``group``, for example ``sweeper.tasks``.

    Raises:
        ValueError: a package registers a name that is taken.
    """
    found = dict(table)
    for entry in entry_points(group=group):
        if entry.name in found:
            raise ValueError(
                f"{entry.value} registers {entry.name!r} in {group}, but that name is taken: uninstall one of the two"
            )
        found[entry.name] = entry.load()
        ORIGINS[group, entry.name] = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
    return found


def find(kind: str, name: str, table: Mapping[str, T], families: Mapping[str, Callable[[str], T]]) -> T:
    """Return an entry of a table; or for "family:rest" what the family makes for the rest of the name.

    Raises:
        ValueError: there is no such thing, or the family does not know the rest.
    """
    if name in table:
        return table[name]
    family, colon, rest = name.partition(":")
    if colon and rest and family in families:
        return families[family](rest)
    raise no_such(kind, name, [*table, *(f"{family}:NAME" for family in families)])
