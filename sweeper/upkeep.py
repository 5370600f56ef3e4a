"""What keeps a store in order: check it, mend it, make few files of many, take in another.

Each is safe at any moment: rows are on disk in their new place before an old one goes, and a row that stands
twice counts once. Files that a writer still holds are left alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sweeper.disk import Disk, reason
from sweeper.results import Damage, ResultsStore, decode, lines_of, rank_of, read_files, row_files
from sweeper.spec import TrialResult

DAMAGED = ".damaged"


@dataclass(frozen=True)
class Checked:
    """What a store's own files hold.

    Attributes:
        statuses: How many trials ended how, by the rows that count.
        rows: Rows in all.
    """

    files: int
    rows: int
    statuses: dict[str, int]
    damage: list[Damage]


@dataclass(frozen=True)
class _File:
    path: Path
    rows: list[TrialResult]
    damage: list[Damage]


def _read(files: Sequence[Path], disk: Disk) -> Iterator[_File]:
    for file, content in read_files(files, disk):
        if isinstance(content, OSError):
            yield _File(file, [], [Damage(file, 0, f"not to be read ({reason(content)})")])
            continue
        rows, damage = [], []
        for number, line in lines_of(content):
            try:
                rows.append(decode(line))
            except ValueError as error:
                damage.append(Damage(file, number, str(error)))
        yield _File(file, rows, damage)


def check(store: ResultsStore) -> Checked:
    """Read every line of a store and say what is there."""
    files = [*_read(row_files(store.path, store.disk), store.disk)]
    statuses = Counter(row.status.value for row in _counting([row for file in files for row in file.rows]))
    return Checked(
        len(files), sum(len(file.rows) for file in files), dict(statuses), [d for file in files for d in file.damage]
    )


def _counting(rows: Sequence[TrialResult]) -> list[TrialResult]:
    """Return of each trial the row that counts."""
    newest: dict[str, TrialResult] = {}
    for row in rows:
        known = newest.get(row.trial_id)
        if known is None or rank_of(row) >= rank_of(known):
            newest[row.trial_id] = row
    return list(newest.values())


def settle(store: ResultsStore) -> None:
    """Have all that can be read on disk: a writer that was killed may have left rows that a power cut would take.

    Whoever counts rows as done asks for this first.

    Raises:
        OSError: the disk refused.
    """
    for path in row_files(store.path, store.disk):
        try:
            store.disk.settle(path)
        except FileNotFoundError:  # a compaction is at work
            continue
        except OSError:
            # A disk that failed to sync once may say next time that all is well, and it is not.
            if store.disk.in_use(path):
                raise
            _write_anew(store, *_read([path], store.disk))
            store.disk.sync_folder(store.path)
    store.close()


def _write_anew(store: ResultsStore, file: _File) -> None:
    store.append(file.rows)
    store.disk.replace(file.path, file.path.with_name(file.path.name + DAMAGED))


def repair(store: ResultsStore) -> list[Path]:
    """Set damaged files aside, under a name that is not read, and write their whole rows anew.

    Returns:
        The files that were set aside.

    Raises:
        OSError: the disk refused. Nothing is lost; the same call goes on from there.
    """
    aside = []
    free = [path for path in row_files(store.path, store.disk) if not store.disk.in_use(path)]
    for file in _read(free, store.disk):
        if not file.damage or file.damage[0].line == 0:  # what cannot be read cannot be saved either
            continue
        _write_anew(store, file)
        aside.append(file.path)
    if aside:
        store.disk.sync_folder(store.path)
    store.close()
    return aside


def compact(store: ResultsStore) -> int:
    """Write the rows that count into one file and remove those they came from; damaged files stay.

    Returns:
        How many files went.

    Raises:
        OSError: the disk refused. Nothing is lost; the same call goes on from there.
    """
    disk = store.disk
    free = [path for path in row_files(store.path, disk) if not disk.in_use(path)]
    whole = [file for file in _read(free, disk) if not file.damage]
    if len(whole) < 2:
        return 0
    store.append(_counting([row for file in whole for row in file.rows]))
    store.close()
    for file in whole:
        disk.remove(file.path)
    disk.sync_folder(store.path)
    return len(whole)


def merge(store: ResultsStore, sources: Sequence[ResultsStore]) -> int:
    """Take in the rows of other stores that count for more than what is known of their trials.

    Returns:
        How many rows were new.

    Raises:
        OSError: the disk refused. Nothing is lost; the same call goes on from there.
    """
    known = {row.trial_id: row for row in store.read().results}
    theirs = _counting([row for source in sources for row in source.read().results])
    new = [row for row in theirs if row.trial_id not in known or rank_of(row) > rank_of(known[row.trial_id])]
    store.append(new)
    store.close()
    return len(new)
