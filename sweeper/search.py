"""Not every setting is worth every step: searches through a grid that leave settings out, or give them fewer steps.

A trial of fewer steps is a trial of its own, planned for so many steps: its rate falls to zero within them, so that
its score is what that budget gives. Settings are compared on validation, within a model, a task and its rows alone;
on one seed while searching, on all seeds of the grid at the end. A search asked again with the same rows asks for the
same trials, so that one that was interrupted goes on from the store.
"""

from __future__ import annotations

import math
import random
import statistics
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sweeper.spec import Status, TrialResult, TrialSpec

if TYPE_CHECKING:
    import optuna

ETA, LEAST_STEPS, FINALISTS = 3, 5, 3
ROUND = 8
"""Settings that are asked for at once: what they tell is heard only when all have ended."""
LEAST_SETTINGS, SHARE = 12, 4
"""A search that chooses among settings takes a quarter of them, and at least a dozen, if it is not told how many."""

OBJECTIVES = {
    "score": ("valid_score", 1),
    "trainable-params": ("trainable_params", -1),
    "seconds": ("train_seconds", -1),
    "memory": ("peak_memory_bytes", -1),
}
"""What a search may be after -> the metric, and 1 where more is better."""

Rows = Mapping[str, TrialResult]
Climb = Generator[list[TrialSpec], Rows, list[str]]
"""Yields trials, takes their rows by trial id, and returns the settings that are worth all seeds."""


@dataclass(frozen=True)
class Task:
    """What a search has to do in one situation.

    Attributes:
        settings: Name -> the trial of its first seed, with all steps.
        budget: How many settings it may try, where it chooses among them.
        objectives: In `OBJECTIVES`.
        advice: Strategy -> settings, the best first; where somebody gave advice.
    """

    settings: Mapping[str, TrialSpec]
    budget: int
    objectives: Sequence[str] = ("score",)
    advice: Mapping[str, Mapping[str, Any]] | None = None

    def best(self, names: Sequence[str], rows: Mapping[str, TrialResult | None], kept: int) -> list[str]:
        """Return the best settings: by non-dominated rank, and within one by score; what did not complete is none."""
        found = {name: values for name in names if (values := self.values(rows.get(name))) is not None}
        rank = fronts(found)
        return sorted(found, key=lambda name: (rank[name], -found[name][0]))[:kept]

    def values(self, row: TrialResult | None) -> tuple[float, ...] | None:
        """Return what a row says to each objective, more being better, score first; ``None`` if it did not complete."""
        if row is None or row.status is not Status.COMPLETE:
            return None
        wanted = ["score", *(name for name in self.objectives if name != "score")]
        return tuple(OBJECTIVES[name][1] * row.metrics[OBJECTIVES[name][0]] for name in wanted)


def fronts(points: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """Return each point's non-dominated rank, 0 for those that no other is better than in everything.

    (Deb et al. 2002, NSGA-II, section III A.)
    """
    rank: dict[str, int] = {}
    left, level = dict(points), 0
    while left:
        front = [name for name, own in left.items() if not any(_dominates(other, own) for other in left.values())]
        for name in front:
            rank[name] = level
            del left[name]
        level += 1
    return rank


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and any(a > b for a, b in zip(one, other, strict=True))


def _ladder(
    task: Task, names: Sequence[str], steps: Callable[[TrialSpec], list[int]], kept: Callable[[int], int]
) -> Generator[list[TrialSpec], Rows, tuple[list[str], dict[str, TrialResult | None]]]:
    """Climb from few steps to more, with fewer settings on each rung; return who is left, and each one's last row."""
    rungs = steps(task.settings[names[0]]) if names else []
    told: dict[str, TrialResult | None] = {}
    for number in rungs:
        rung = {name: _with_steps(task.settings[name], number) for name in names}
        rows = yield [*rung.values()]
        told.update({name: rows.get(trial.trial_id) for name, trial in rung.items()})
        names = task.best(names, told, kept(len(names)))
    return list(names), told


def _with_steps(trial: TrialSpec, steps: int) -> TrialSpec:
    return replace(trial, train=replace(trial.train, steps=steps))


def _thirds(full: int) -> list[int]:
    return [n for n in (full // ETA**2, full // ETA) if n >= LEAST_STEPS]


def _later_thirds(skipped: int, trial: TrialSpec) -> list[int]:
    return _thirds(trial.train.steps)[skipped:]


def _best_third(settings: int) -> int:
    return math.ceil(settings / ETA)


def _epoch(trial: TrialSpec) -> list[int]:
    epoch = math.ceil(trial.n_train / trial.train.batch_size)
    return [epoch] if epoch < trial.train.steps else []


def _grid(task: Task) -> Climb:
    yield from ()
    return [*task.settings]


def _halving(task: Task) -> Climb:
    names, _ = yield from _ladder(task, [*task.settings], lambda trial: _thirds(trial.train.steps), _best_third)
    return names


def _one_epoch(task: Task) -> Climb:
    names, _ = yield from _ladder(task, [*task.settings], _epoch, lambda n: min(FINALISTS, n))
    return names


def _random(task: Task) -> Climb:
    names = random.Random(0).sample(sorted(task.settings), task.budget)
    return (yield from _final(task, names))


def _final(task: Task, names: Sequence[str]) -> Climb:
    """Run settings with all their steps, and return the best."""
    trials = {name: task.settings[name] for name in names}
    rows = yield [*trials.values()]
    told = {name: rows.get(trial.trial_id) for name, trial in trials.items()}
    return task.best(names, told, FINALISTS)


def _hyperband(task: Task) -> Climb:
    """Brackets that start at a ninth, a third and all of the steps, the early ones with more settings."""
    names = random.Random(0).sample(sorted(task.settings), len(task.settings))
    shares = [3.0, 1.5, 1.0]  # eta^s / (s + 1), as in the paper
    survivors = []
    for skipped in range(len(shares)):
        bounds = [round(len(names) * sum(shares[:n]) / sum(shares)) for n in (skipped, skipped + 1)]
        own = names[bounds[0] : bounds[1]]
        left, _ = yield from _ladder(task, own, partial(_later_thirds, skipped), _best_third)
        survivors += left
    return (yield from _final(task, survivors))


def _tpe(task: Task) -> Climb:
    asked = _Asked(task)
    told: dict[str, TrialResult | None] = {}
    for names in asked.rounds():
        rows = yield [task.settings[name] for name in names]
        told.update({name: rows.get(task.settings[name].trial_id) for name in names})
        asked.tell({name: told[name] for name in names})
    return task.best([*told], told, FINALISTS)


def _bohb(task: Task) -> Climb:
    asked = _Asked(task)
    survivors = []
    for names in asked.rounds():
        left, told = yield from _ladder(task, names, lambda trial: _thirds(trial.train.steps), _best_third)
        if not told:  # too few steps for rungs
            rows = yield [task.settings[name] for name in names]
            told = {name: rows.get(task.settings[name].trial_id) for name in names}
        # A setting's last row has most steps; those of fewer steps are all that the model knows of the others.
        asked.tell(told)
        survivors += left
    return (yield from _final(task, survivors))


class _Asked:
    """Optuna's tree-structured Parzen estimator on the settings of a grid (Bergstra et al. 2011).

    What it is asked for is a strategy first, then that strategy's own settings, by their place among its values.
    """

    def __init__(self, task: Task) -> None:
        try:
            import optuna
        except ImportError:
            raise ValueError("--search tpe and bohb need Optuna: `pip install 'sweeper-advisor[search]'`") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.task, self.optuna = task, optuna
        self.values: dict[str, dict[str, list[Any]]] = {}
        self.names: dict[tuple[Any, ...], str] = {}
        for trial in task.settings.values():
            for key, value in _flat(trial).items():
                own = self.values.setdefault(trial.strategy, {}).setdefault(key, [])
                if value not in own:
                    own.append(value)
        for values in self.values.values():
            for own in values.values():
                own.sort(key=lambda value: (isinstance(value, str | bool | None), value if _is_number(value) else 0))
        for name, trial in task.settings.items():
            self.names[self._key(trial.strategy, _flat(trial))] = name
        with _quiet():
            sampler = optuna.samplers.TPESampler(seed=0, multivariate=True, group=True, constant_liar=True)
        directions = [optuna.study.StudyDirection.MAXIMIZE] * len({"score", *task.objectives})
        self.study = optuna.create_study(directions=directions, sampler=sampler)
        self.open: dict[str, list[optuna.Trial]] = {}
        self.known: dict[str, TrialResult | None] = {}
        self.others = random.Random(0).sample(sorted(task.settings), len(task.settings))

    def _key(self, strategy: str, flat: Mapping[str, Any]) -> tuple[Any, ...]:
        return strategy, *(self.values[strategy][key].index(flat[key]) for key in sorted(self.values[strategy]))

    def rounds(self) -> Iterator[list[str]]:
        """Yield settings that were not asked for yet, some at once, as many as the budget has."""
        left = self.task.budget
        while left:
            names = self._ask(min(ROUND, left))
            left -= len(names)
            yield names

    def _ask(self, number: int) -> list[str]:
        names: list[str] = []
        for _ in range(5 * number):
            with _quiet():
                trial = self.study.ask()
                strategy = trial.suggest_categorical("strategy", sorted(self.values))
                own = self.values[strategy]
                places = [trial.suggest_int(f"{strategy}.{key}", 0, len(own[key]) - 1) for key in sorted(own)]
            name = self.names.get((strategy, *places))
            if name is None:
                self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
            elif name in self.known:
                self._tell(trial, self.known[name])
            else:
                self.open.setdefault(name, []).append(trial)
                if name not in names:
                    names.append(name)
            if len(names) == number:
                return names
        # It asks for what it knows: the rest is drawn.
        new = [name for name in self.others if name not in self.known and name not in names]
        return names + new[: number - len(names)]

    def tell(self, rows: Mapping[str, TrialResult | None]) -> None:
        """Hear what came of settings."""
        for name, row in rows.items():
            self.known[name] = row
            for trial in self.open.pop(name, []):
                self._tell(trial, row)

    def _tell(self, trial: optuna.Trial, row: TrialResult | None) -> None:
        values = self.task.values(row)
        if values is None:
            self.study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(trial, list(values))


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the sampler's options being experimental
        yield


def _flat(trial: TrialSpec) -> dict[str, Any]:
    return {**trial.hparams, **{key: value for key, value in vars(trial.train).items() if key != "steps"}}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _advised(task: Task) -> Climb:
    """Try what is advised of each strategy, the best first; then what may yet be better than the best so far.

    A strategy may be better by its best score and by what its scores differ, the less the more of it was tried (an
    upper confidence bound: Auer et al. 2002); of the strategy that may be best, the untried setting nearest to its
    best is next.
    """
    advice = task.advice or {}
    of: dict[str, list[str]] = {}
    for name, trial in task.settings.items():
        of.setdefault(trial.strategy, []).append(name)
    order = sorted(of, key=lambda strategy: [*advice, strategy].index(strategy))
    told: dict[str, TrialResult | None] = {}
    nearest = {strategy: dict(advice.get(strategy, {})) for strategy in of}
    names = [min(of[s], key=lambda name: _distance(task.settings[name], nearest[s])) for s in order][: task.budget]
    while names:
        rows = yield [task.settings[name] for name in names]
        told.update({name: rows.get(task.settings[name].trial_id) for name in names})
        scores = {name: values[0] for name in told if (values := task.values(told[name])) is not None}
        spread = statistics.pstdev(scores.values()) if scores else 0.0
        tried = {s: [scores[name] for name in of[s] if name in scores] for s in of}
        more = dict.fromkeys(of, 0)
        for s in of:
            if tried[s]:
                nearest[s] = _flat(task.settings[max((n for n in of[s] if n in scores), key=lambda n: scores[n])])
        names = []
        while len(names) < min(ROUND, task.budget - len(told)):
            left = {s: [name for name in of[s] if name not in told and name not in names] for s in order}
            open_ = [s for s in order if left[s]]
            if not open_:
                break
            bounds = {s: _bound(tried[s], spread, more[s], any(name in told for name in of[s])) for s in open_}
            chosen = max(open_, key=bounds.__getitem__)
            more[chosen] += 1
            names.append(min(left[chosen], key=lambda name: _distance(task.settings[name], nearest[chosen])))
    return task.best([*told], told, FINALISTS)


def _bound(scores: Sequence[float], spread: float, more: int, tried: bool) -> float:
    """Return how good a strategy may be; one whose settings did not complete comes last, one never tried first."""
    if not scores:
        return -math.inf if tried else math.inf
    return max(scores) + spread / math.sqrt(len(scores) + more)


def _distance(trial: TrialSpec, wanted: Mapping[str, Any]) -> float:
    """Return how far a setting is from another: in decades for numbers above zero, 1 for all else that differs."""
    total, own = 0.0, _flat(trial)
    for key, value in wanted.items():
        if key in own and own[key] != value:
            both = [x for x in (own[key], value) if _is_number(x) and x > 0]
            total += abs(math.log10(both[0] / both[1])) if len(both) == 2 else 1.0
    return total


@dataclass(frozen=True)
class Search:
    """A way to go through a grid.

    Attributes:
        summary: In one line.
        climb: How, in one situation.
        chooses: Whether it tries only so many settings as it is given.
    """

    summary: str
    climb: Callable[[Task], Climb]
    chooses: bool = False


SEARCHES = {
    "grid": Search("every trial", _grid),
    "halving": Search(
        "a ninth of the steps for all settings, a third for the best third, all for the best of these "
        "(successive halving: Jamieson and Talwalkar 2016, arXiv 1502.07943)",
        _halving,
    ),
    "one-epoch": Search(
        "one pass over the rows for all settings, all steps for the best three (after arXiv 2307.15422)", _one_epoch
    ),
    "hyperband": Search(
        "halving for most settings, from a third of the steps for some, all steps for a few (Li et al. 2018, "
        "arXiv 1603.06560)",
        _hyperband,
    ),
    "random": Search("settings drawn at random, all seeds for the best three", _random, chooses=True),
    "tpe": Search(
        "settings that Optuna's tree-structured Parzen estimator asks for, all seeds for the best three", _tpe, True
    ),
    "bohb": Search("halving among settings that the same estimator asks for (after arXiv 1807.01774)", _bohb, True),
    "advisor": Search(
        "first what the advisor ranks best of each strategy, then what may yet be better than the best so far",
        _advised,
        chooses=True,
    ),
}


def _setting(trial: TrialSpec) -> str:
    """Return what is compared: a trial but for its seed and its steps."""
    plain: dict[str, Any] = trial.to_dict()
    del plain["seed"], plain["train"]["steps"]
    return repr(plain)


Situation = tuple[str, str, int]


def rungs(
    name: str,
    trials: Sequence[TrialSpec],
    budget: int | None = None,
    objectives: Sequence[str] = ("score",),
    advice: Mapping[Situation, Mapping[str, Mapping[str, Any]]] | None = None,
) -> Generator[list[TrialSpec], Sequence[TrialResult], None]:
    """Yield the trials of each round, and take their rows: a setting's first seed until the last, then all seeds.

    A setting that did not complete goes no further.

    Args:
        name: In `SEARCHES`.
        trials: The grid's.
        budget: Settings to try in each model, task and number of rows, for a search that chooses among them.
        objectives: In `OBJECTIVES`; with several, settings are chosen by non-dominated rank.
        advice: Model, task and rows -> strategy -> settings, the best first.
    """
    seeds: dict[str, list[TrialSpec]] = {}
    for trial in trials:
        seeds.setdefault(_setting(trial), []).append(trial)
    situations: dict[Situation, dict[str, TrialSpec]] = {}
    for setting, (first, *_) in seeds.items():
        situations.setdefault((first.model, first.task, first.n_train), {})[setting] = first
    climbs = []
    for situation, settings in situations.items():
        most = min(len(settings), budget or max(LEAST_SETTINGS, len(settings) // SHARE))
        climbs.append(SEARCHES[name].climb(Task(settings, most, objectives, (advice or {}).get(situation))))
    chosen: set[str] = set()
    sent: Rows | None = None
    while climbs:
        asked: list[TrialSpec] = []
        going_on = []
        for climb in climbs:
            try:
                asked += climb.send(sent)  # type: ignore[arg-type]  # the first takes nothing
                going_on.append(climb)
            except StopIteration as stop:
                chosen.update(stop.value)
        climbs = going_on
        if climbs:
            rows = yield asked
            sent = {row.trial_id: row for row in rows}
    yield [trial for setting, trials_ in seeds.items() if setting in chosen for trial in trials_]
