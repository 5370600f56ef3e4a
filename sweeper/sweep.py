"""What of a sweep is done, what runs and what has gone wrong: a state machine without Ray and without a clock.

Ray Tune drives it through `sweeper.tune`; the tests drive it with a simulated disk, workers that die and
power cuts, thousands of schedules at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from sweeper.provenance import now
from sweeper.results import ResultsStore
from sweeper.spec import Status, TrialResult, TrialSpec

RETRIES = {Status.PREEMPTED: 3, Status.FAILED: 1, Status.OUT_OF_MEMORY: 1}
"""How often a launch starts a trial again whose worker is gone; one that the time limit ended it does not."""


class Listener(Protocol):
    """What is told about the sweep while it runs."""

    def start(self, trials: int) -> None:
        """Hear that this many trials have started."""
        ...

    def finish(self, results: list[TrialResult]) -> None:
        """Hear of rows that are in the store."""
        ...


def failed_row(spec: TrialSpec, status: Status, error: str, provenance: Mapping[str, Any]) -> TrialResult:
    """Return the row of a trial that has nothing but a reason."""
    return TrialResult(spec, status, provenance={**provenance, "recorded_at": now()}, error=error)


def done(rows: Iterable[TrialResult], early_stop: str | None) -> set[str]:
    """Return the ids of trials that need not run; one that was stopped early has not run where nobody stops."""
    return {row.trial_id for row in rows if row.status.is_final and (early_stop or row.status is not Status.PRUNED)}


def missing(store: ResultsStore, trials: Sequence[TrialSpec]) -> list[TrialSpec]:
    """Return the trials that the store, read again from the disk, has no row of."""
    known = {row.trial_id for row in store.read().results}
    return [trial for trial in trials if trial.trial_id not in known]


class Sweep:
    """The packs of one launch, on their way into the store.

    Args:
        packs: What trains together, by number.
        time_limit: Seconds that a trial may take, a pack so many times that as it has trials left.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        packs: Sequence[Sequence[TrialSpec]],
        store: ResultsStore,
        listener: Listener,
        provenance: Mapping[str, Any],
        time_limit: float | None,
        clock: Callable[[], float],
    ) -> None:
        self.packs = [list(pack) for pack in packs]
        self.store, self.listener, self.provenance = store, listener, provenance
        self.time_limit, self.clock = time_limit, clock
        self.running: dict[int, float] = {}  # pack -> when it last showed life
        self.late: set[int] = set()
        self.ended: set[str] = set()
        self.tries: dict[int, int] = {}  # pack -> how often what is in it was lost
        self.again: list[int] = []  # packs that are to start once more
        self.refused: OSError | None = None

    def start(self, pack: int) -> None:
        """A worker has taken a pack."""
        self.running[pack] = self.clock()
        self.listener.start(len(self.packs[pack]))

    def add(self, pack: int, rows: Sequence[TrialResult]) -> None:
        """Some of a pack's rows have come: they are on disk before anybody hears of them.

        Raises:
            OSError: the store takes no more rows; also kept as `refused`.
        """
        self.running[pack] = self.clock()
        self._store(rows)

    def finish(self, pack: int) -> None:
        """A pack has come to its end."""
        self.running.pop(pack, None)

    def overdue(self) -> list[int]:
        """Return the packs that have been silent for too long, each once: their workers must be ended."""
        if self.time_limit is None:
            return []
        at = self.clock()
        late = [pack for pack, since in self.running.items() if at - since > self.time_limit * len(self.left(pack))]
        for pack in late:
            del self.running[pack]
        self.late.update(late)
        return late

    def lose(self, pack: int, status: Status, reason: str) -> None:
        """The worker of a pack is gone: what it had not handed over starts again, or gets rows that say so.

        Who was lost with its machine starts again as it was; else each trial by itself, so that one that ends its
        worker does not take the others along.
        """
        self.running.pop(pack, None)
        left, lost = self.left(pack), self.tries.get(pack, 0) + 1
        error = f"the worker is gone: {reason}"
        if pack in self.late:
            status, error = Status.TIMED_OUT, f"ended: longer than the limit of {self.time_limit:g} s a trial"
        elif lost <= RETRIES[status] and (status is not Status.OUT_OF_MEMORY or len(left) > 1):
            for part in [left] if status is Status.PREEMPTED else [[spec] for spec in left]:
                self.again.append(len(self.packs))
                self.tries[len(self.packs)] = lost
                self.packs.append(part)
            return
        elif lost > 1:
            error += f" (the {lost} times that it was started)"
        self._store([failed_row(spec, status, error, self.provenance) for spec in left])

    def left(self, pack: int) -> list[TrialSpec]:
        """Return the trials of a pack that have no row of this launch."""
        return [spec for spec in self.packs[pack] if spec.trial_id not in self.ended]

    def _store(self, rows: Sequence[TrialResult]) -> None:
        rows = [row for row in rows if row.trial_id not in self.ended]  # a worker may be heard twice
        if not rows:
            return
        try:
            self.store.append(rows)
        except OSError as error:
            self.refused = error
            raise
        self.ended.update(row.trial_id for row in rows)
        self.listener.finish(rows)
