"""How a launch stands: a small file in the store that it writes anew while it runs, and a file that asks it to stop.

`sweeper status` and the live page read the one, `sweeper stop` writes the other: from another terminal or another
machine with the same store. No process is ever signalled, so that an id that is somebody else's by now is no danger.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweeper.disk import Disk
from sweeper.leaders import Leaders
from sweeper.provenance import now
from sweeper.results import ResultsStore
from sweeper.spec import TrialResult, TrialSpec
from sweeper.sweep import done

MOST_BYTES = 2**26
MOST_FAILURES = 20
SILENT_SECONDS = 60.0
"""A launch on another machine, or into object storage, that has not written for so long has ended."""
RUNNING, DONE, STOPPED, CUT_OFF = "running", "done", "stopped", "cut off"


class StoppedError(KeyboardInterrupt):
    """Somebody has asked through the store: all goes as with Ctrl-C."""


class TimeIsUpError(KeyboardInterrupt):
    """The launch has come to the end of the time that it was given."""


@dataclass(frozen=True)
class Standing:
    """How a launch stands.

    Attributes:
        launch: Its name: when it began, and a random part.
        state: "running", "done", "stopped" or "cut off" (nobody knows why; a crash, a kill, a power cut).
        by: Who stopped it.
        trial_ids: Those that it is to have run when it is done; of a search, those of the rounds so far.
        total: Trials that it is to run.
        done: Trials that have a row since it began.
        running: Trials that are being trained.
        statuses: How those ended.
        seconds_left: Until the last is done; ``None`` while nobody knows.
        best: `Leader` of each strategy as a mapping; rows from before this launch count.
        failures: Id, strategy and reason of some trials that did not end well.
    """

    launch: str
    grid: str
    question: str
    host: str
    process: int
    started: str
    updated: str
    state: str = RUNNING
    by: str | None = None
    trial_ids: list[str] = field(default_factory=list)
    total: int = 0
    done: int = 0
    running: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    seconds_left: float | None = None
    best: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Trials that have no row yet and are not being trained."""
        return max(0, self.total - self.done - self.running)

    @property
    def failed(self) -> int:
        """Trials that ended badly and are run again by the next launch."""
        return sum(self.statuses.get(status, 0) for status in ("failed", "timed_out", "preempted"))


class Reporter:
    """Writes how a launch stands, and hears whether it is to stop.

    Args:
        until: When it is to stop whatever trains, in seconds since the epoch.

    Attributes:
        ended: What it will have come to if nothing happens any more.
    """

    def __init__(self, store: ResultsStore, launch: str, grid: str, question: str, until: float | None = None) -> None:
        self.store, self.until = store, until
        self.every = 1.0 if store.disk.appends else 10.0
        self.standing = Standing(launch, grid, question, socket.gethostname(), os.getpid(), now(), now())
        self.leaders = Leaders()
        self.last = 0.0
        self.ended = DONE
        _forget_the_done(store)
        self.write()

    def round(self, trials: Sequence[TrialSpec], rows: Sequence[TrialResult], todo: int) -> None:
        """Hear what is to run next, and which of its rows are there already."""
        self.leaders = Leaders(rows)
        known = [*self.standing.trial_ids, *(trial.trial_id for trial in trials)]
        self._change(trial_ids=[*dict.fromkeys(known)], total=self.standing.done + todo, running=0)

    def hear(self, running: int, seconds_left: float | None, rows: Sequence[TrialResult]) -> None:
        """Hear of trials that have started or ended."""
        statuses, failures = dict(self.standing.statuses), list(self.standing.failures)
        for row in rows:
            self.leaders.see(row)
            statuses[row.status.value] = statuses.get(row.status.value, 0) + 1
            if row.error is not None:
                told = {"trial_id": row.trial_id, "strategy": row.spec.strategy, "model": row.spec.model}
                failures.append({**told, "status": row.status.value, "reason": row.error})
        self.standing = replace(
            self.standing,
            done=self.standing.done + len(rows),
            running=max(0, running),
            seconds_left=seconds_left,
            statuses=statuses,
            failures=failures[-MOST_FAILURES:],
        )

    def beat(self) -> None:
        """Write how it stands now and then.

        Raises:
            StoppedError: somebody has asked for it.
            TimeIsUpError: the time is up.
        """
        if time.monotonic() - self.last < self.every:
            return
        self.write()
        if self.until is not None and time.time() >= self.until:
            raise TimeIsUpError
        asked = asked_to_stop(self.store, self.standing.launch)
        if asked is not None:
            self.standing = replace(self.standing, by=asked)
            raise StoppedError(asked)

    def end(self, state: str) -> None:
        """Write the last word."""
        self._change(state=state, running=0, seconds_left=None)
        with contextlib.suppress(OSError):
            self.store.disk.remove(_request(self.store, self.standing.launch))

    def write(self) -> None:
        """Write how it stands; a disk that refuses costs no more than that others do not see it."""
        self.last = time.monotonic()
        self.standing = replace(
            self.standing, updated=now(), best=[asdict(one) for one in self.leaders.best()] if self.leaders.rows else []
        )
        file = self.store.path / f"standing-{self.standing.launch}.json"
        with contextlib.suppress(OSError):
            _put(self.store.disk, file, json.dumps(asdict(self.standing), allow_nan=False))

    def _change(self, **changes: Any) -> None:
        self.standing = replace(self.standing, **changes)
        self.write()


@contextlib.contextmanager
def reporting(
    store: ResultsStore, launch: str, grid: str, question: str, until: float | None = None
) -> Iterator[Reporter]:
    """Report on a launch, and at its end what it came to."""
    reporter = Reporter(store, launch, grid, question, until)
    try:
        yield reporter
    except KeyboardInterrupt as error:
        reporter.ended = STOPPED
        if not isinstance(error, StoppedError):
            reporter.standing = replace(reporter.standing, by="Ctrl-C")
        raise
    except BaseException:
        reporter.ended = CUT_OFF
        raise
    finally:
        reporter.end(reporter.ended)


def standings(store: ResultsStore) -> list[Standing]:
    """Return how launches into a store stand, the oldest first: running, cut off, and the last that ended.

    What a launch that was killed did not come to write is taken from its rows.
    """
    found = []
    for name in store.disk.names(store.path) or ():
        if not (name.startswith("standing-") and name.endswith(".json")):
            continue
        with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):  # gone, or half of another version
            one = Standing(**json.loads(store.disk.read(store.path / name, MOST_BYTES)))
            found.append(_as_it_is(store, one))
    return found


def _as_it_is(store: ResultsStore, one: Standing) -> Standing:
    if one.state != RUNNING or is_running(store, one):
        return one
    there = done(store.read().results, None) & {*one.trial_ids}
    # Rows from before the launch are among them: what is left counts, not what was done.
    left = len(one.trial_ids) - len(there)
    return replace(one, state=CUT_OFF, done=max(one.done, one.total - left), running=0, seconds_left=None)


def is_running(store: ResultsStore, one: Standing) -> bool:
    """Return whether a launch that says so still runs: by the lock on its record, else by its last sign of life."""
    record = store.path / f"launch-{one.launch}.json"
    if one.host == socket.gethostname() and store.disk.appends:
        return record.exists() and store.disk.in_use(record)
    silent = (datetime.now(UTC) - datetime.fromisoformat(one.updated)).total_seconds()
    return silent < SILENT_SECONDS


def ask_to_stop(store: ResultsStore, one: Standing) -> None:
    """Ask a launch to stop."""
    by = f"{getpass.getuser()}@{socket.gethostname()}"
    _put(store.disk, _request(store, one.launch), json.dumps({"by": by, "at": now()}))


def asked_to_stop(store: ResultsStore, launch: str) -> str | None:
    """Return who has asked a launch to stop; ``None``: nobody."""
    try:
        return str(json.loads(store.disk.read(_request(store, launch), 2**16))["by"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _request(store: ResultsStore, launch: str) -> Path:
    return store.path / f"stop-{launch}.json"


def _put(disk: Disk, file: Path, text: str) -> None:
    """Write a file at one stroke: who reads it finds the old one or the new."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}") if disk.appends else file
    with contextlib.suppress(FileNotFoundError):
        if disk.appends:
            disk.remove(temporary)
    handle = disk.create(temporary)
    try:
        content = memoryview(text.encode())
        while content:
            content = content[disk.write(handle, content) :]
        if not disk.appends:
            disk.sync(handle)  # that is when an object is written; a file need not outlive a power cut
    finally:
        disk.close(handle)
    if disk.appends:
        disk.replace(temporary, file)


def _forget_the_done(store: ResultsStore) -> None:
    """Remove what launches that have ended left: the last of them stays until the next begins."""
    for one in standings(store):
        if one.state == DONE:
            with contextlib.suppress(OSError):
                store.disk.remove(store.path / f"standing-{one.launch}.json")
