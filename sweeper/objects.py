"""A results store on object storage: ``s3://bucket/results``, ``gs://``, ``abfs://``, through pyarrow.

An object is written whole or not at all, and never again: each `ResultsStore.append` makes one of its own. What is
there is therefore safe to read, count and compact at any moment, whoever writes beside.
"""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")


def is_url(path: str | Path) -> bool:
    """Return whether a store's name is one of object storage."""
    return isinstance(path, str) and "://" in path


class ObjectDisk:
    """Object storage as a `sweeper.disk.Disk`; credentials and endpoint are those of the environment.

    Args:
        url: Of the store; its scheme is in `SCHEMES`.

    Attributes:
        folder: The store's path there, the bucket first.

    Raises:
        ValueError: the URL is of another kind, or holds a password.
    """

    appends = False

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise ValueError(f"{url!r} is no store: {parts.scheme}:// is not one of {', '.join(SCHEMES)}, or a folder")
        if parts.password:
            raise ValueError(
                f"a password in the store's name {parts.scheme}://...@{parts.hostname} ends up in logs: leave it "
                "out, and "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your storage asks for"
            )
        from pyarrow import fs

        self.fs: Any
        self.fs, folder = fs.FileSystem.from_uri(url)
        self.folder = Path(folder)
        self._numbers = itertools.count()
        self._open: dict[int, tuple[Path, bytearray]] = {}

    def names(self, folder: Path) -> list[str] | None:
        """Return what a folder holds, sorted; ``None`` where there is nothing."""
        from pyarrow import fs

        found = self.fs.get_file_info(fs.FileSelector(folder.as_posix(), allow_not_found=True))
        return sorted(info.base_name for info in found) or None

    def below(self, folder: Path, name: str) -> list[Path]:
        """Return the folders below one that hold a file of this name."""
        from pyarrow import fs

        found = self.fs.get_file_info(fs.FileSelector(folder.as_posix(), allow_not_found=True, recursive=True))
        return sorted(
            Path(info.path).parent for info in found if info.base_name == name and Path(info.path).parent != folder
        )

    def make_folder(self, folder: Path) -> None:
        """Do nothing: there are no folders."""

    def read(self, file: Path, most: int | None = None) -> bytes:
        """Return what a file holds; one of more bytes than ``most`` is refused with a ValueError."""
        with self.fs.open_input_stream(file.as_posix()) as stream:
            content: bytes = stream.read() if most is None else stream.read(most + 1)
        if most is not None and len(content) > most:
            raise ValueError(f"it is larger than {most:,} bytes")
        return content

    def create(self, file: Path) -> int:
        """Return the handle of a file that is to be."""
        handle = next(self._numbers)
        self._open[handle] = (file, bytearray())
        return handle

    def write(self, handle: int, content: bytes | memoryview) -> int:
        """Remember what a file is to hold besides."""
        self._open[handle][1].extend(content)
        return len(content)

    def sync(self, handle: int) -> None:
        """Return when the file is there, whole."""
        file, content = self._open[handle]
        with self.fs.open_output_stream(file.as_posix()) as stream:
            stream.write(bytes(content))

    def settle(self, file: Path) -> None:
        """Do nothing: what can be read is safe."""

    def cut(self, handle: int, length: int) -> None:
        """Take a file back: it holds what one `sync` wrote, or nothing."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.delete_file(self._open[handle][0].as_posix())

    def sync_folder(self, folder: Path) -> None:
        """Do nothing: a name is as safe as what it names."""

    def close(self, handle: int) -> None:
        """Let go of a file."""
        self._open.pop(handle, None)

    def replace(self, old: Path, new: Path) -> None:
        """Have a file's contents under another name."""
        self.fs.move(old.as_posix(), new.as_posix())

    def remove(self, file: Path) -> None:
        """Remove a file."""
        self.fs.delete_file(file.as_posix())

    def in_use(self, file: Path) -> bool:
        """Return whether a writer may still change a file: none does."""
        return False
