"""Short trials in this process, under a limit of time: none starts that is not expected to end within it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.own import Place
from sweeper.answers import predict
from sweeper.facts import task_facts
from sweeper.pack import make_packs
from sweeper.provenance import code, environment
from sweeper.results import ResultsStore
from sweeper.spec import Status, TrialResult, TrialSpec
from sweeper.sweep import done
from sweeper.tasks import find_task
from sweeper.train import CURVE_POINTS
from sweeper.trial import run_pack, untrained

GRID = "probe"
TIME_IS_UP = "stopped: the time of the probe was up"
DOUBT = 1.25
"""What an expected time is multiplied with: a busy machine is slower than it was."""
UNKNOWN = 1.5
"""The same, besides, for a strategy of which nothing was measured yet."""
FORWARD_AND_BACK = 3.0
"""A step costs about so many times what an answer does: backward is twice forward."""


@dataclass(frozen=True)
class Run:
    """What a pack took: training, and all the rest (loading, scores on validation and test)."""

    members: int
    steps: int
    training: float
    rest: float


class Pace:
    """How long packs are expected to take, by what was measured so far.

    Args:
        first_step: Seconds of a step of one trial, before any was measured.
        first_rest: Seconds of everything else.
        new_seed: Seconds that a seed costs once: its rows are looked at.
    """

    def __init__(self, first_step: float, first_rest: float, new_seed: float) -> None:
        self.first = Run(1, 1, first_step, first_rest)
        self.new_seed = new_seed
        self.seeds = {0}
        self.runs: dict[str, list[Run]] = {}

    def learn(self, pack: Sequence[TrialSpec], seconds: float, training: float) -> None:
        """Hear what a pack took, and how much of it was training."""
        rest = max(0.0, seconds - training)
        if pack[0].seed not in self.seeds and self.runs:
            usual = min(rest, self._rest(len(pack)))
            self.new_seed, rest = rest - usual, usual
        self.seeds.add(pack[0].seed)
        self.runs.setdefault(pack[0].strategy, []).append(Run(len(pack), pack[0].train.steps, training, rest))

    def expect(self, specs: Sequence[TrialSpec]) -> float:
        """Return how long trials are expected to take."""
        seeds = {spec.seed for spec in specs} - self.seeds
        return DOUBT * (len(seeds) * self.new_seed + sum(map(self._pack, make_packs(specs, len(specs) or 1))))

    def _pack(self, pack: Sequence[TrialSpec]) -> float:
        known = self.runs.get(pack[0].strategy)
        members, steps = len(pack), pack[0].train.steps
        step = statistics.median(run.training / (run.members * run.steps) for run in known or self._everything())
        return self._rest(members) + (1.0 if known else UNKNOWN) * step * steps * members

    def _rest(self, members: int) -> float:
        """Return what a pack takes beside training, which hardly depends on the strategy.

        The lower median, for the first pack of a process pays for what is loaded once.
        """
        return statistics.median_low(run.rest * max(1.0, members / run.members) for run in self._everything())

    def _everything(self) -> list[Run]:
        return [run for own in self.runs.values() for run in own] or [self.first]


class Runner:
    """Runs trials one pack after another; each row is in the store before the next starts.

    Trials that the store has already are not run again.

    Attributes:
        rows: Trial id -> row, of this place, complete or not.
        ran: How many trials were run here.
    """

    def __init__(self, store: ResultsStore, pace: Pace, deadline: float, clock: Callable[[], float]) -> None:
        self.store, self.pace, self.deadline, self.clock = store, pace, deadline, clock
        contents = store.read()
        final = done(contents.results, None)
        self.rows = {row.trial_id: row for row in contents.results if row.trial_id in final}
        self.ran = 0

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.deadline - self.clock()

    def expect(self, specs: Sequence[TrialSpec]) -> float:
        """Return how long those of these trials are expected to take that have no row yet."""
        return self.pace.expect([spec for spec in specs if spec.trial_id not in self.rows])

    def run(self, specs: Sequence[TrialSpec]) -> bool:
        """Run what of these trials has no row yet, all or nothing; return whether there was the time."""
        todo = [spec for spec in specs if spec.trial_id not in self.rows]
        if todo and self.pace.expect(todo) > self.left():
            return False
        for pack in make_packs(todo, len(todo) or 1):
            begun = self.clock()
            rows = run_pack(pack, {**code(), **environment(), "grid": GRID}, judge=self._judge)
            self.pace.learn(pack, self.clock() - begun, sum(row.metrics.get("train_seconds", 0.0) for row in rows))
            self.store.append(rows)
            self.rows.update({row.trial_id: row for row in rows})
            self.ran += len(rows)
        return True

    def _judge(self, step: int, trials: Sequence[TrialSpec], scores: Sequence[float]) -> Mapping[str, str]:
        """Stop what is still training when the time is up, however wrong the expectation was."""
        return {} if self.left() > 0 else {trial.trial_id: TIME_IS_UP for trial in trials}

    def complete(self, specs: Sequence[TrialSpec]) -> list[TrialResult]:
        """Return the rows of those of these trials that came to their end."""
        rows = (self.rows.get(spec.trial_id) for spec in specs)
        return [row for row in rows if row is not None and row.status is Status.COMPLETE]


def look(place: Place, clock: Callable[[], float]) -> tuple[dict[str, Any], Pace]:
    """Return the facts of the rows and of the model as loaded, and a first guess of how long trials take."""
    begun = clock()
    spec = place.trial("full", {}, 1e-3)
    model, data = untrained(spec, [spec.seed])
    loaded = clock()
    facts = task_facts(model.beside(), data, find_task(place.task).metric)
    looked = clock()
    predict(model.beside(), [data.splits["valid"]])
    answer = (clock() - looked) / max(1, len(data.splits["valid"]))
    scored = len(data.splits["valid"]) * CURVE_POINTS + 2 * len(data.splits["test"])
    first_step = FORWARD_AND_BACK * answer * place.batch_size
    return facts, Pace(first_step, loaded - begun + answer * scored, looked - loaded)
