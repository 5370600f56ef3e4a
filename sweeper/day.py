"""The workers' day: packs one after the other, as Ray Tune hands them out, each taking what its rehearsal says."""

from __future__ import annotations

import heapq
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sweeper.pack import pack_key
from sweeper.rehearse import Pace, points
from sweeper.spec import TrialSpec

A_PACK = 0.05
"""Seconds in which Ray Tune hands out a pack and takes its rows."""


def kind_of(pack: Sequence[TrialSpec]) -> str:
    """Return what packs have in common that take as long as each other: all but seeds and rates."""
    shared = json.loads(pack_key(pack[0]))
    del shared["seed"]
    own = [json.dumps(spec.hparams, sort_keys=True) for spec in pack]
    return json.dumps([shared, sorted(own)], sort_keys=True)


def alike(pack: Sequence[TrialSpec], packs: Mapping[str, Sequence[TrialSpec]], found: Mapping[str, Pace]) -> Pace:
    """Return the pace of a pack that was not rehearsed, from those that were.

    That of its strategy on another task, as much slower as the task is: by its test rows and points of the curve. Of a
    strategy that was not rehearsed at all: that of the one whose steps take longest, and the most memory.
    """
    first = pack[0]

    def near(name: str) -> tuple[float, ...]:
        own, pace = packs[name][0], found[name]
        strategy = own.strategy == first.strategy
        shared = own.model == first.model, strategy, strategy and own.hparams == first.hparams
        return *shared, pace.step / pace.members

    if not found:
        return Pace(members=1)
    by_strategy = found[max(found, key=near)]
    on_task = [
        pace for name, pace in found.items() if (packs[name][0].model, packs[name][0].task) == (first.model, first.task)
    ]
    if not on_task:
        return by_strategy
    one = min(on_task, key=lambda pace: (abs(pace.members - by_strategy.members), -pace.row_peak_bytes))
    slower = (one.row / by_strategy.row) if one.row and by_strategy.row else 1.0
    return replace(one, members=by_strategy.members, step=by_strategy.step * slower)


@dataclass
class Day:
    """Workers that take packs one after the other, as Ray Tune hands them out.

    Attributes:
        made: Model, task, rows and seed of what was rehearsed: its source model and facts are there.
        end: When the last pack ends.
        by_kind: Kind -> seconds of all its packs.
        most_bytes: The most that workers hold together, what they share counted once.
    """

    paces: Mapping[str, Pace]
    workers: int
    start: float
    made: Collection[tuple[object, ...]]
    by_kind: dict[str, float] = field(default_factory=dict)
    end: float = 0.0
    most_bytes: int = 0

    def __post_init__(self) -> None:
        self.free = [(self.start, number) for number in range(self.workers)]
        self.holds = [0] * self.workers
        self.seen: set[tuple[object, ...]] = set()
        self.sources: dict[tuple[object, ...], float] = {}
        # Once a model, task or seed: known from the pack that was the first to need it.
        self.cold: dict[tuple[object, ...], float] = {}
        self.source: dict[tuple[object, ...], float] = {}
        self.facts: dict[tuple[object, ...], float] = {}
        for name, pace in self.paces.items():
            shared = json.loads(name)[0]
            place = (shared["model"], shared["task"])
            rows = (*place, shared["n_train"])
            for known, key, value in (
                (self.cold, place, pace.cold),
                (self.source, place, pace.source),
                (self.facts, rows, pace.facts),
            ):
                known[key] = max(value, known.get(key, 0.0))

    def train(self, pack: Sequence[TrialSpec]) -> None:
        """Give a pack to the first worker that is free."""
        name, first = kind_of(pack), pack[0]
        pace = self.paces[name]
        place, rows = (first.model, first.task), (first.model, first.task, first.n_train)
        begun, worker = heapq.heappop(self.free)
        at = begun + A_PACK + self._once(self.cold[place], "cold", worker, *place)
        made = (*rows, first.seed) in self.made
        source = (*place, first.seed)
        if source not in self.sources:
            self.sources[source] = at + (0.0 if made else self.source[place])
        at = max(at, self.sources[source])  # who else needs it waits
        at += self._once(pace.planning, "planning", worker, name)
        at += self._once(0.0 if made else self.facts[rows], "facts", *rows, first.seed)
        at += self._once(pace.kept, "kept", name, first.seed)
        steps = first.train.steps
        once = pace.fixed + steps * pace.step + points(steps) * pace.point
        at += once * -(-len(pack) // pace.members)
        self.by_kind[name] = self.by_kind.get(name, 0.0) + at - begun
        self.end = max(self.end, at)
        heapq.heappush(self.free, (at, worker))
        self.holds[worker] = max(pace.peak_bytes - pace.shared_bytes, 0)
        self.most_bytes = max(self.most_bytes, sum(self.holds))

    def _once(self, seconds: float, *what: object) -> float:
        new = what not in self.seen
        self.seen.add(what)
        return seconds if new else 0.0
