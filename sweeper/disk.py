"""What the results store asks of a file system, and of which calls it may believe what.

Few calls, so that the tests can put a disk in their place that tears writes, forgets what was not synced,
applies changes of a folder in any order, or is full.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import Protocol

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class Disk(Protocol):
    """A file system. What may fail raises `OSError`.

    Attributes:
        appends: Whether a file can be written to after `sync`; else each `ResultsStore.append` makes a new one.
    """

    appends: bool

    def names(self, folder: Path) -> list[str] | None:
        """Return what a folder holds, sorted; ``None`` where there is none."""
        ...

    def below(self, folder: Path, name: str) -> list[Path]:
        """Return the folders below one that hold a file of this name."""
        ...

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it; on return they survive a power cut."""
        ...

    def read(self, file: Path, most: int | None = None) -> bytes:
        """Return what a file holds; one of more bytes than ``most`` is refused with a ValueError."""
        ...

    def create(self, file: Path) -> int:
        """Make a file that nobody else writes to, and return its handle."""
        ...

    def write(self, handle: int, content: bytes | memoryview) -> int:
        """Append some of ``content``, at least a byte, and return how many."""
        ...

    def sync(self, handle: int) -> None:
        """Return when what was written survives a power cut; the file's name does so after `sync_folder`."""
        ...

    def settle(self, file: Path) -> None:
        """Return when what can be read in a file survives a power cut."""
        ...

    def cut(self, handle: int, length: int) -> None:
        """Take back what was written beyond this many bytes."""
        ...

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in a folder survive a power cut."""
        ...

    def close(self, handle: int) -> None:
        """Let go of a file."""
        ...

    def replace(self, old: Path, new: Path) -> None:
        """Rename a file at one stroke."""
        ...

    def remove(self, file: Path) -> None:
        """Remove a file."""
        ...

    def in_use(self, file: Path) -> bool:
        """Return whether a writer still holds a file."""
        ...


class LocalDisk:
    """The file system of the machine, shared folders included."""

    appends = True

    def names(self, folder: Path) -> list[str] | None:
        """Return what a folder holds, sorted; ``None`` where there is none."""
        try:
            return sorted(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def below(self, folder: Path, name: str) -> list[Path]:
        """Return the folders below one that hold a file of this name."""
        return sorted(file.parent for file in folder.rglob(name) if file.parent != folder)

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it; on return they survive a power cut."""
        missing = [place for place in (folder, *folder.absolute().parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            self.sync_folder(made.absolute().parent)

    def read(self, file: Path, most: int | None = None) -> bytes:
        """Return what a file holds; one of more bytes than ``most`` is refused with a ValueError."""
        return file.read_bytes() if most is None else read_small(file, most)

    def create(self, file: Path) -> int:
        """Make a file that nobody else writes to, and return its handle."""
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a file system without locks: `in_use` asks there for as little
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle

    def write(self, handle: int, content: bytes | memoryview) -> int:
        """Append some of ``content``, at least a byte, and return how many."""
        return os.write(handle, content)

    def sync(self, handle: int) -> None:
        """Return when what was written survives a power cut; the file's name does so after `sync_folder`."""
        os.fsync(handle)

    def settle(self, file: Path) -> None:
        """Return when what can be read in a file survives a power cut."""
        try:
            handle = os.open(file, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        except PermissionError:  # somebody else's, to be read alone: what they promised of it holds
            return
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def cut(self, handle: int, length: int) -> None:
        """Take back what was written beyond this many bytes."""
        os.ftruncate(handle, length)

    def sync_folder(self, folder: Path) -> None:
        """Return when the names in a folder survive a power cut."""
        if os.name == "nt":  # folders cannot be opened there
            return
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def close(self, handle: int) -> None:
        """Let go of a file."""
        os.close(handle)

    def replace(self, old: Path, new: Path) -> None:
        """Rename a file at one stroke."""
        old.replace(new)

    def remove(self, file: Path) -> None:
        """Remove a file."""
        file.unlink()

    def in_use(self, file: Path) -> bool:
        """Return whether a writer still holds a file; where that cannot be known, it may."""
        if fcntl is None:
            return True
        try:
            handle = os.open(file, os.O_RDWR)
        except OSError:
            return True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(handle)
        return False


def read_small(file: Path, most: int) -> bytes:
    """Return what a plain file holds.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no plain file, or holds more than ``most`` bytes.
    """
    about = file.stat()
    if not stat.S_ISREG(about.st_mode):  # opening a pipe would wait for ever
        raise ValueError("it is not a plain file")
    with file.open("rb") as opened:
        content = opened.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    return content


def reason(error: OSError) -> str:
    """Return in one line what a disk says of its refusal."""
    return error.strerror or " ".join(str(error).split())[:300]
