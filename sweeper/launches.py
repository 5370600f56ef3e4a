"""Which launches into a store have not come to their end: a small file each, which goes when all is done."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper.provenance import now
from sweeper.results import ResultsStore

PATHS = ("grid_name", "data_name")
LEFT_OUT = ("folder", "form")


@contextlib.contextmanager
def recorded(store: ResultsStore, options: Mapping[str, Any]) -> Iterator[tuple[str, Callable[[], None]]]:
    """Keep the options of a launch in its store, until the call that is yielded is made: all is done.

    Others see by the lock on the file that it runs; on object storage they do not.

    Yields:
        The launch's name, and the call.
    """
    plain = as_json(options)
    launch = f"{now().replace(':', '')}-{secrets.token_hex(4)}"
    file = store.path / f"launch-{launch}.json"
    handle = store.disk.create(file)

    def end() -> None:
        store.disk.remove(file)
        forget(store, options)  # an earlier one that was cut off is done with this one

    try:
        content = memoryview(json.dumps(plain, allow_nan=False).encode())
        while content:
            content = content[store.disk.write(handle, content) :]
        store.disk.sync(handle)
        yield launch, end
    finally:
        store.disk.close(handle)


def forget(store: ResultsStore, options: Mapping[str, Any]) -> None:
    """Forget launches that were cut off and had these options: all is done."""
    plain = as_json(options)
    for file, its in unfinished(store):
        if its == plain:
            store.disk.remove(file)
            with contextlib.suppress(OSError):
                store.disk.remove(file.with_name(file.name.replace("launch-", "standing-", 1)))


def unfinished(store: ResultsStore) -> list[tuple[Path, dict[str, Any]]]:
    """Return the files and options of launches that were cut off, the oldest first, each once."""
    found = []
    for name in store.disk.names(store.path) or ():
        file = store.path / name
        if name.startswith("launch-") and name.endswith(".json") and not store.disk.in_use(file):
            with contextlib.suppress(OSError, ValueError):  # one that was cut off while it was written had not begun
                options = json.loads(store.disk.read(file))
                if isinstance(options, dict):
                    found.append((file, options))
    return found


def as_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a launch as JSON has them, `LEFT_OUT` left out and files by their whole path."""
    kept = {name: own for name, own in options.items() if name not in LEFT_OUT}
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    for name in PATHS:
        if plain.get(name) and Path(plain[name]).exists():
            plain[name] = str(Path(plain[name]).absolute())
    return plain
