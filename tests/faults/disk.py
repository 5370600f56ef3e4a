"""A disk in memory that does to a store what real ones do: forgets, tears, reorders, fills up, fails."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from random import Random


class PowerCut(BaseException):
    """Everything stops; what was not synced is at the disk's mercy."""


class Killed(BaseException):
    """The process stops; what it wrote can still be read."""


@dataclass
class Content:
    """A file's bytes: those that are safe, and those that were written since."""

    safe: bytes = b""
    written: list[bytes] = field(default_factory=list)
    forgotten: list[bytes] = field(default_factory=list)
    """Bytes between the two that can be read, and that a failed sync has taken from those still to be written."""

    def read(self) -> bytes:
        return self.safe + b"".join(self.forgotten) + b"".join(self.written)


class SimulatedDisk:
    """See `sweeper.disk.Disk`; `arm` says what goes wrong at the how manieth call that changes something."""

    appends = True

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now: dict[Path, Content] = {}  # names as programs see them
        self.safe: dict[Path, Content] = {}  # names as they would be after a power cut
        self.changes: list[tuple[Path, Content | None]] = []  # of names, since the folder was synced
        self.folders: set[Path] = set()
        self.open: dict[int, Path] = {}
        self.handles = 0
        self.calls = 0
        self.fault: tuple[int, str] | None = None
        self.full = False

    def arm(self, call: int, what: str) -> None:
        """At this call from now: ``cut``, ``kill``, ``full`` (stays so until `free`) or ``fail`` (once)."""
        self.calls, self.fault = 0, (call, what)

    def free(self) -> None:
        self.fault, self.full = None, False

    def _due(self) -> str | None:
        self.calls += 1
        if self.fault is not None and self.calls == self.fault[0]:
            return self.fault[1]
        return "full" if self.full else None

    def _check(self, takes_room: bool = True) -> None:
        what = self._due()
        if what == "cut":
            raise PowerCut
        if what == "kill":
            raise Killed
        if what == "full":
            self.full = True
            if takes_room:
                raise OSError(errno.ENOSPC, "No space left on device")
        if what == "fail":
            raise OSError(errno.EIO, "Input/output error")

    def names(self, folder: Path) -> list[str] | None:
        if folder not in self.folders:
            return None
        return sorted(path.name for path in self.now if path.parent == folder)

    def below(self, folder: Path, name: str) -> list[Path]:
        return sorted(path.parent for path in self.now if path.name == name and path.parent.parent == folder)

    def make_folder(self, folder: Path) -> None:
        self._check()
        self.folders.add(folder)

    def read(self, file: Path, most: int | None = None) -> bytes:
        if file not in self.now:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(file))
        return self.now[file].read()

    def create(self, file: Path) -> int:
        self._check()
        if file in self.now:
            raise FileExistsError(errno.EEXIST, "File exists", str(file))
        self._name(file, Content())
        self.handles += 1
        self.open[self.handles] = file
        return self.handles

    def write(self, handle: int, content: bytes | memoryview) -> int:
        part = bytes(content)[: self.rng.randint(1, len(content))]
        try:
            self._check()
        except BaseException:
            self._content(handle).written.append(part[: self.rng.randint(0, len(part))])
            raise
        if self.rng.random() < 0.9:
            part = bytes(content)
        self._content(handle).written.append(part)
        return len(part)

    def sync(self, handle: int) -> None:
        self._sync(self._content(handle))

    def settle(self, file: Path) -> None:
        if file not in self.now:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(file))
        self._sync(self.now[file])

    def _sync(self, content: Content) -> None:
        try:
            self._check(takes_room=False)
        except OSError:
            # As on Linux: what could not be written counts as clean, and no later sync tries again.
            content.forgotten, content.written = content.forgotten + content.written, []
            raise
        if not content.forgotten:
            content.safe, content.written = content.read(), []

    def cut(self, handle: int, length: int) -> None:
        self._check(takes_room=False)
        content = self._content(handle)
        whole = content.read()[:length]
        kept = min(length, len(content.safe))
        content.forgotten = []
        content.safe, content.written = whole[:kept], [whole[kept:]]

    def sync_folder(self, folder: Path) -> None:
        self._check(takes_room=False)
        self.safe = {path: content for path, content in self.safe.items() if path.parent != folder}
        self.safe.update({path: content for path, content in self.now.items() if path.parent == folder})
        self.changes = [change for change in self.changes if change[0].parent != folder]

    def close(self, handle: int) -> None:
        self.open.pop(handle, None)

    def replace(self, old: Path, new: Path) -> None:
        self._check()
        content = self.now[old]
        self._name(new, content)
        self._name(old, None)

    def remove(self, file: Path) -> None:
        self._check(takes_room=False)
        if file not in self.now:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(file))
        self._name(file, None)

    def in_use(self, file: Path) -> bool:
        return file in self.open.values()

    def _content(self, handle: int) -> Content:
        return self.now[self.open[handle]]

    def _name(self, file: Path, content: Content | None) -> None:
        self.changes.append((file, content))
        if content is None:
            del self.now[file]
        else:
            self.now[file] = content

    def kill(self) -> None:
        """End every process: their files are let go, as they are."""
        self.open.clear()

    def cut_power(self) -> None:
        """Lose what was not synced, or some of it, in any order."""
        self.open.clear()
        names = dict(self.safe)
        self.rng.shuffle(self.changes)
        for path, content in self.changes:
            if self.rng.random() < 0.5:
                continue
            if content is None:
                names.pop(path, None)
            else:
                names[path] = content
        for content in {id(content): content for content in names.values()}.values():
            self._tear(content)
        self.changes, self.now, self.safe = [], dict(names), dict(names)

    def _tear(self, content: Content) -> None:
        lost = b"\0" * sum(map(len, content.forgotten))
        new = bytearray(lost + b"".join(content.written))
        del new[self.rng.randint(0, len(new)) :]
        if new and self.rng.random() < 0.3:  # a later sector was written, an earlier one was not
            start = self.rng.randrange(len(new))
            end = min(len(new), start + 512)
            new[start:end] = b"\0" * (end - start)
        content.safe, content.written, content.forgotten = content.safe + bytes(new), [], []
