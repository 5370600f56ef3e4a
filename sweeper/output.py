"""Files that commands write for people: where they may go, and written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def place_of(name: str | Path) -> Path:
    """Return where a file is to be written.

    Raises:
        ValueError: there is no such folder, or the name is empty.
    """
    path = _named(Path(name))
    if not path.parent.is_dir():
        raise ValueError(f"there is no folder {str(path.parent)!r} to write {path.name!r} into: make it first")
    return path


def place_of_page(name: str | Path) -> Path:
    """Return where a page is to be written; ValueError where its name is of something else, or as `place_of`."""
    if Path(name).suffix not in (".html", ".htm"):
        raise ValueError(f"--output must end in .html, got {str(name)!r}")
    return place_of(name)


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a file to write beside a path, which takes its place once all of it is there."""
    temporary = _named(path).with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _named(path: Path) -> Path:
    """Return a path that names a file; ValueError where it names none."""
    if not path.name:
        raise ValueError(f"{str(path)!r} is no name of a file to write: give one in a folder, such as ./NAME")
    return path
