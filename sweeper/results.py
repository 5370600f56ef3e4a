"""The results store: a folder of append-only files, one JSON object a line, each line with its checksum.

The contract, column by column, stands in ``results/README.md``. In short: a row that `append` returned
from is on disk; rows are never edited, the newest row of a trial id counts, a final one before a crash;
every line is checked when it is read; stores merge by copying their files together; each writer writes
a file of its own, so any number may write at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.disk import Disk, LocalDisk, reason
from sweeper.objects import ObjectDisk, is_url
from sweeper.provenance import now
from sweeper.spec import Status, TrainArgs, TrialResult, TrialSpec

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

SCHEMA = 1
MARKER = "store.json"
FORMAT = "sweeper-results"
READERS = 16
MOST_MARKER = 2**16
TRIES = 5
_UNFINISHED = f".{MARKER}."

# A line ends in `,"crc32":"xxxxxxxx"}`: a JSON key that can be cut off, and the bytes before it checked.
_CRC_KEY = b',"crc32":"'
_TAIL = len(_CRC_KEY) + 8 + len(b'"}')


@dataclass(frozen=True)
class Damage:
    """A line that is not a row: where it stands and why it was set aside."""

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}; this row is set aside, the rest is read"


@dataclass
class Contents:
    """What a store holds: the row that counts of each trial, and what could not be read."""

    results: list[TrialResult] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    stores: dict[str, str] = field(default_factory=dict)
    """Trial id -> folder of the store that its row came from."""
    vanished: bool = False
    """Whether a file was gone before it was read."""


class ResultsStore:
    """A folder of rows, or the URL of one on object storage (`sweeper.objects`).

    Opening reads only the marker; nothing is written before `append`.

    Raises:
        ValueError: ``path`` exists and is not a results store, was written by a newer version, or does
            not exist and ``create`` is false.
    """

    def __init__(self, path: str | Path, *, create: bool = False, disk: Disk | None = None) -> None:
        self.name = str(path)
        self.disk: Disk
        if is_url(path):
            remote = ObjectDisk(str(path))
            self.disk, self.path = remote, remote.folder
        else:
            self.disk, self.path = disk or LocalDisk(), Path(path)
        self._file: int | None = None
        self._length = 0  # bytes of this writer's file that are on disk
        names = self.disk.names(self.path)
        if names and MARKER in names:
            self._check_marker()
        elif names is None and self.is_remote:
            if not create:
                raise ValueError(f"no results store at {self.name!r}. `sweeper launch --results {self.name}` makes one")
        elif names is None and not self.path.exists():
            if not create:
                raise ValueError(
                    f"no results store at {self.name!r}. `sweeper launch --grid smoke` makes one in results/"
                )
            parent = next(folder for folder in self.path.absolute().parents if folder.exists())
            if not parent.is_dir() or not os.access(parent, os.W_OK):
                raise ValueError(
                    f"no results store can be made at {self.name!r}: {str(parent)!r} takes no folder. Name another "
                    "place"
                )
        elif names is None or any(not name.startswith(_UNFINISHED) for name in names):
            raise ValueError(
                f"{self.name!r} is not a results store (it has no {MARKER}). "
                "Name a store, or a folder that is empty or does not exist yet"
            )
        elif not create:
            raise ValueError(f"{self.name!r} is an empty folder, not a results store: `sweeper launch` makes one of it")

    @property
    def is_remote(self) -> bool:
        """Whether it is on object storage, where nothing but rows can be put."""
        return isinstance(self.disk, ObjectDisk)

    def _check_marker(self) -> None:
        marker = self.path / MARKER
        try:
            content = json.loads(self.disk.read(marker, MOST_MARKER))
            found, schema = content["format"], int(content["schema"])
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError, OSError) as error:
            raise ValueError(
                f"{self.name!r} is not a results store: {MARKER} is not readable ({error}). Name another folder, or "
                "mend it"
            ) from None
        if found != FORMAT:
            raise ValueError(
                f"{self.name!r} is not a results store: its format is {found!r}, not {FORMAT!r}. Name another folder"
            )
        if schema > SCHEMA:
            raise ValueError(
                f"{self.name!r} has schema {schema}, this version reads up to {SCHEMA}: "
                "pip install --upgrade sweeper-advisor"
            )

    def append(self, results: Iterable[TrialResult]) -> None:
        """Write rows and return when they are on disk.

        Raises:
            OSError: the disk refused. No row of this call counts as stored; earlier rows are intact.
        """
        lines = b"".join(encode(result) for result in results)
        if not lines:
            return
        if self._file is None:
            self._file = self._new_file()
        try:
            self._write(self._file, lines)
        except OSError:
            # What was written may be torn, and after a failed sync it may be read and yet never reach the disk: take
            # it back, or a later launch counts it as done. The file is left alone from here on.
            with contextlib.suppress(OSError):
                self.disk.cut(self._file, self._length)
            self.close()
            raise
        self._length += len(lines)
        if not self.disk.appends:
            self.close()

    def _write(self, file: int, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[self.disk.write(file, view) :]
        self.disk.sync(file)

    def mark(self) -> None:
        """Make the folder a store that others know as one, before there is anything else in it."""
        if MARKER in (self.disk.names(self.path) or ()):
            self.disk.sync_folder(self.path)  # who made it may have been killed before this
            return
        self.disk.make_folder(self.path)
        temporary = self.path / f"{_UNFINISHED}{secrets.token_hex(4)}"
        file = self.disk.create(temporary)
        try:
            self._write(file, json.dumps({"format": FORMAT, "schema": SCHEMA}).encode() + b"\n")
        finally:
            self.disk.close(file)
        self.disk.replace(temporary, self.path / MARKER)
        # Before a file of rows is made: a folder that holds rows and no marker would not be known as a store.
        self.disk.sync_folder(self.path)

    def _new_file(self) -> int:
        self.mark()
        name = f"rows-{now().replace(':', '')}-{secrets.token_hex(4)}.jsonl"
        file = self.disk.create(self.path / name)
        try:
            self.disk.sync_folder(self.path)  # the file's name must survive a power cut as well as its bytes
        except OSError:
            self.disk.close(file)
            raise
        return file

    def close(self) -> None:
        """Close this writer's file; a later `append` starts another."""
        file, self._file, self._length = self._file, None, 0
        if file is not None:
            self.disk.close(file)

    def read(self) -> Contents:
        """Return the row that counts of each trial in this folder, and what was damaged."""
        return _read_folders([self.path], self.disk)


def read_store(path: str | Path) -> Contents:
    """Return what the store at ``path`` holds, the stores in its sub-folders included.

    Sub-folders are evidence from elsewhere: read along here, but not counted as done by a launch into
    ``path``, which asks `ResultsStore.read`.

    Raises:
        ValueError: ``path`` is not a results store.
    """
    root = ResultsStore(path)
    nested, refused = [], []
    for folder in root.disk.below(root.path, MARKER):
        try:
            nested.append(ResultsStore(folder, disk=root.disk).path)
        except ValueError as error:
            refused.append(Damage(folder / MARKER, 1, str(error)))
    contents = _read_folders([root.path, *nested], root.disk)
    contents.damage += refused
    return contents


# Trial id -> the row that counts so far, and what it won by: whether it is final, and when it was made.
Newest = dict[str, tuple[tuple[int, str], TrialResult]]


def _read_folders(folders: Iterable[Path], disk: Disk) -> Contents:
    """Return the row that counts of each trial in these folders, and what was damaged."""
    folders, started = [*folders], time.monotonic()
    for _ in range(TRIES):
        contents, newest = Contents(), Newest()
        for folder in folders:
            _read_folder(folder, disk, newest, contents)
        if not contents.vanished:  # else a compaction was at work: what is gone stands elsewhere now
            break
    contents.results = [result for _, result in newest.values()]
    files = sum(len(row_files(folder, disk)) for folder in folders) if log.isEnabledFor(logging.DEBUG) else 0
    where = ", ".join(map(str, folders))
    log.debug("%d trials in %d files of %s, in %.2f s", len(newest), files, where, time.monotonic() - started)
    return contents


def _read_folder(folder: Path, disk: Disk, newest: Newest, contents: Contents) -> None:
    """Add the rows of one folder to ``newest`` and its damage to ``contents``."""
    for file, content in read_files(row_files(folder, disk), disk):
        if isinstance(content, OSError):
            contents.vanished |= isinstance(content, FileNotFoundError)
            contents.damage.append(Damage(file, 0, f"not to be read ({reason(content)})"))
            continue
        for number, line in lines_of(content):
            try:
                result = decode(line)
            except ValueError as error:
                contents.damage.append(Damage(file, number, str(error)))
                continue
            rank = rank_of(result)
            known = newest.get(result.trial_id)
            if known is None or rank >= known[0]:
                newest[result.trial_id] = (rank, result)
                contents.stores[result.trial_id] = str(folder)


RANKS = {Status.COMPLETE: 3, Status.DIVERGED: 3, Status.PRUNED: 2, Status.OUT_OF_MEMORY: 1}


def rank_of(result: TrialResult) -> tuple[int, str]:
    """Return what a row wins by over others of its trial.

    A trial that is done stays done: a crash of a later or parallel launch does not undo it, nor does one that stops
    trials early or has less memory.
    """
    return RANKS.get(result.status, 0), str(result.provenance.get("recorded_at", ""))


def read_files(files: Sequence[Path], disk: Disk) -> Iterator[tuple[Path, bytes | OSError]]:
    """Yield files and what they hold, or why they cannot be read."""

    def read(file: Path) -> bytes | OSError:
        try:
            return disk.read(file)
        except OSError as error:
            return error

    if disk.appends:
        yield from ((file, read(file)) for file in files)
        return
    with ThreadPoolExecutor(READERS) as pool:  # each takes a way over the network
        yield from zip(files, pool.map(read, files), strict=True)


def row_files(folder: Path, disk: Disk) -> list[Path]:
    """Return the files of rows in a folder."""
    return [folder / name for name in disk.names(folder) or () if name.endswith(".jsonl")]


def lines_of(content: bytes) -> list[tuple[int, bytes]]:
    """Return the lines of a file with their numbers from 1, empty ones left out."""
    lines = content.split(b"\n")
    whole = [line + b"\n" for line in lines[:-1]] + lines[-1:]
    return [(number, line) for number, line in enumerate(whole, start=1) if line.strip()]


def encode(result: TrialResult) -> bytes:
    """Return the line of a row, its checksum included.

    Raises:
        ValueError: a number in it is not finite.
    """
    row = {"schema": SCHEMA, **result.to_dict()}
    body = json.dumps(row, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()[:-1]
    return body + _CRC_KEY + b'%08x"}\n' % zlib.crc32(body)


def decode(line: bytes) -> TrialResult:
    """Return the row of one line.

    Raises:
        ValueError: the line is torn, its bytes have changed, or its row is not one of this schema.
    """
    if not line.endswith(b"\n"):
        raise ValueError("unfinished line (its writer was interrupted, or is still writing)")
    line = line[:-1]
    body, tail = line[:-_TAIL], line[-_TAIL:]
    if not tail.startswith(_CRC_KEY) or tail != _CRC_KEY + b'%08x"}' % zlib.crc32(body):
        raise ValueError("the checksum does not match")
    try:
        row = json.loads(line)
        schema = row.pop("schema")
        if schema > SCHEMA:
            raise ValueError(f"the row has schema {schema}, this version reads up to {SCHEMA}")
        del row["crc32"]
        return TrialResult.from_dict(row)
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"not a row of schema {SCHEMA} ({type(error).__name__}: {error})") from None


def flat_row(result: TrialResult) -> dict[str, Any]:
    """Return one row as a flat mapping, under the column names of ``results/README.md``."""
    spec = result.spec
    return {
        "trial_id": result.trial_id,
        "status": result.status.value,
        "strategy": spec.strategy,
        "task": spec.task,
        "model": spec.model,
        "seed": spec.seed,
        "n_train": spec.n_train,
        "hparams": json.dumps(spec.hparams, sort_keys=True),
        **{f"hparam_{name}": value for name, value in spec.hparams.items()},
        **spec.to_dict()["train"],
        **result.metrics,
        **result.context,
        "curve": list(result.curve),
        "error": result.error,
        **{
            name: json.dumps(value, sort_keys=True) if isinstance(value, dict) else value
            for name, value in result.provenance.items()
        },
    }


def to_frame(results: Sequence[TrialResult]) -> pd.DataFrame:
    """Return rows as a pandas frame; without rows it still has the columns that every row has."""
    import pandas as pd

    fixed = ["trial_id", "status", "strategy", "task", "model", "seed", "n_train", "hparams"]
    return pd.DataFrame([flat_row(result) for result in results], columns=None if results else fixed)


def from_frame(frame: pd.DataFrame) -> list[TrialResult]:
    """Return the rows of a frame that `to_frame` made: some of them, in any order, columns added or not.

    Numbers of a metric or a fact are what they were; of which mapping a column was is told by `sweeper.metrics`.

    Raises:
        ValueError: a column is missing, or a row is not what its id says.
    """
    from sweeper.metrics import METRICS

    train = [f.name for f in fields(TrainArgs)]
    named = ("model", "task", "n_train", "strategy", "seed")
    missing = [name for name in ("trial_id", "status", "hparams", *named, *train) if name not in frame]
    if missing:
        raise ValueError(
            f"the frame lacks the column {', '.join(missing)}: give it rows of sweeper.load_results(), whole"
        )
    found = []
    for row in frame.to_dict("records"):
        known = {str(name): value for name, value in row.items() if not _is_missing(value)}
        try:
            spec = TrialSpec(
                hparams=json.loads(known["hparams"]),
                train=TrainArgs(**{name: known[name] for name in train}),
                **{name: known[name] for name in named},
            )
            facts = {name: value for name, value in known.items() if name not in {*named, *train, "hparams", "curve"}}
            content = {
                "trial_id": facts.pop("trial_id"),
                "status": facts.pop("status"),
                "error": facts.pop("error", None),
                "spec": spec.to_dict(),
                "metrics": {name: value for name, value in facts.items() if name in METRICS},
                "context": {name: value for name, value in facts.items() if name not in METRICS},
                "provenance": {name: facts[name] for name in ("recorded_at",) if name in facts},
                "curve": known.get("curve", ()),
            }
            found.append(TrialResult.from_dict(content))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"row {row['trial_id']!r} of the frame is no trial: {error}; "
                "take rows of sweeper.load_results() as they are"
            ) from None
    return found


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
