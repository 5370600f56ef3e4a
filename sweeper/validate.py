"""What is wrong with a grid, a file of rows or a results store: each problem in a line, and nothing is run."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.disk import read_small
from sweeper.grid import KEYS, MOST_BYTES, Grid, load_grid, parse_grid, shipped_grids
from sweeper.objects import is_url
from sweeper.own_data import OwnData, own_data
from sweeper.results import MARKER, ResultsStore
from sweeper.suggest import no_such
from sweeper.tasks.columns import Asked
from sweeper.tasks.own import in_words, prepare
from sweeper.trial import check_all
from sweeper.upkeep import check


@dataclass(frozen=True)
class Verdict:
    """What was found about one thing.

    Attributes:
        kind: "grid", "data" or "store".
        facts: What it is, one line each.
        problems: What is wrong with it, one line each.
    """

    name: str
    kind: str
    facts: tuple[str, ...]
    problems: tuple[str, ...]


def validate(name: str, data: str | None) -> Verdict:
    """Return what is wrong with a grid, a store, or rows of the user's own.

    Args:
        name: A shipped grid, a file that ends in .toml, a results store, or what `sweeper data check` takes.
        data: Rows that a grid is to be tried on, instead of its own tasks.
    """
    path = Path(name)
    if name in shipped_grids() or path.suffix == ".toml":
        return _grid(name, data)
    if is_url(name) or (path / MARKER).is_file():
        return _store(name)
    if not path.exists() and ":" not in name:
        grids = f"no file or folder, and {no_such('grid', name, shipped_grids())}"
        return Verdict(name, "grid", (), (grids,))
    try:
        return Verdict(name, "data", tuple(in_words(prepare(Asked(name)).report)), ())
    except (ValueError, OSError) as error:
        return Verdict(name, "data", (), (_line(error),))


def _grid(name: str, data: str | None) -> Verdict:
    try:
        own = own_data(Asked(data), (), None) if data is not None else None
    except (ValueError, OSError) as error:
        return Verdict(name, "grid", (), (_line(error),))
    try:
        grid = load_grid(name, own=own)
        return Verdict(name, "grid", *_checked(grid, lenient=own is not None))
    except (ValueError, OSError) as error:
        first = _line(error)
    # The file says no more than its first mistake: ask its parts for theirs.
    others = [problem for problem in _of_parts(name, own) if problem not in first]
    return Verdict(name, "grid", (), (first.removeprefix(f"{name}: "), *dict.fromkeys(others)))


def _checked(grid: Grid, lenient: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    trials, left_out = check_all(grid.trials, lenient=lenient)
    facts = [f"{len(trials)} trials: {grid.question}"]
    return (*facts, *(f"left out: {own.what}, {own.trials} trials: {own.reason}" for own in left_out)), ()


def _of_parts(name: str, own: OwnData | None) -> Iterator[str]:
    """Yield what is wrong with each part of a grid's file that can be looked at alone."""
    path = shipped_grids().get(name, Path(name))
    try:
        content = tomllib.loads(read_small(path, MOST_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    yield from (_line(no_such("key", key, KEYS, " in a grid")) for key in content if key not in KEYS)
    content = {key: value for key, value in content.items() if key in KEYS}
    models, entries = content.get("models"), content.get("strategies")
    for model in models if isinstance(models, list) else [models]:
        for entry in entries if isinstance(entries, list) else [entries]:
            part = {**content, "models": [model], "strategies": [entry]}
            try:
                _part(path.stem, part, own)
            except (ValueError, TypeError, OverflowError, OSError) as error:
                yield _line(error)


def _part(name: str, content: Mapping[str, Any], own: OwnData | None) -> None:
    for part in [content] if own is None else own.contents(content):
        check_all(parse_grid(name, part).trials, lenient=own is not None)


def _store(name: str) -> Verdict:
    try:
        root = ResultsStore(name)
        below = [ResultsStore(folder, disk=root.disk) for folder in root.disk.below(root.path, MARKER)]
        found = [check(store) for store in (root, *below)]
    except (ValueError, OSError) as error:
        return Verdict(name, "store", (), (_line(error),))
    trials, rows = sum(sum(one.statuses.values()) for one in found), sum(one.rows for one in found)
    fact = f"{trials} trials, {rows} rows in {sum(one.files for one in found)} files"
    damage = [f"{damage}; `sweeper store repair` mends it" for one in found for damage in one.damage]
    return Verdict(name, "store", (fact,), tuple(damage))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
