"""The nearest known name to a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES, NEAREST = 50, 8


def no_such(kind: str, name: object, known: Iterable[str], where: str = "") -> ValueError:
    """Return the error for an unknown name: the thing, the value, and what there is, or of very much the nearest."""
    names = sorted(set(known))
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if len(names) > MOST_NAMES:
        nearest = difflib.get_close_matches(str(name), names, n=NEAREST, cutoff=0.0)
        return ValueError(f"no {kind} named {name!r}{where}.{hint} The nearest of {len(names)}: {', '.join(nearest)}")
    return ValueError(f"no {kind} named {name!r}{where}.{hint} Available: {', '.join(names)}")
