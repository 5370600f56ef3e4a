"""`advisor recommend --probe`: short trials of the first answer's candidates on the user's rows, then another answer.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) over strategies: all of them with few steps at up
to three learning rates, the better half with more, the best with as many as the time allows on several seeds. Trials
of different steps are never compared: the answer rests on those of the last round alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from advisor.contenders import Contender, contenders
from advisor.evidence import Fitted
from advisor.fit import fit
from advisor.own import OwnRows, Place
from advisor.pace import Pace, Runner, look
from advisor.recommend import Recommendation, recommend
from advisor.situation import Situation
from sweeper.results import Contents, ResultsStore
from sweeper.spec import Status, TrialSpec
from sweeper.summary import SIMILAR_FROM, transfer_of

FIRST_SHARE = 0.4
"""Of the time, for the round with all candidates."""
ETA = 3
LEAST_STEPS = 5
FINALISTS, SEEDS, LEAST_SEEDS = 3, 5, 3
"""Strategies in the last round, seeds of each at most, and seeds that it is planned for."""
FEWEST_SEEDS = 2


class TooShortError(ValueError):
    """Nothing can be compared in the time."""


@dataclass(frozen=True)
class Score:
    """How a strategy did in a round: its best setting there.

    Attributes:
        valid: Mean over seeds.
    """

    strategy: str
    hparams: Mapping[str, Any]
    lr: float
    valid: float
    seeds: int


@dataclass(frozen=True)
class Round:
    """One round: so many trials of so many steps, and the strategies in it, the best first."""

    steps: int
    trials: int
    scores: Sequence[Score]


@dataclass
class Probed:
    """What a probe found.

    Attributes:
        before: The answer without it.
        after: The answer with it.
        facts: Of the rows and of the model as loaded (`sweeper.facts`).
        transfer: How far frozen features go from chance to perfect (`sweeper.summary.transfer_of`).
        similar: Whether that counts as similar to pretraining; ``None`` where it cannot be told.
        left_out: Strategy -> why it was not tried, or not to the end.
        ran: Trials that were run; others were in the store already.
    """

    place: Place
    before: Recommendation
    after: Recommendation
    facts: Mapping[str, Any]
    transfer: float | None
    similar: bool | None
    rounds: list[Round]
    left_out: Mapping[str, str]
    ran: int
    seconds: float
    budget: float
    results: str


@dataclass
class _Race:
    """The rounds of one probe."""

    place: Place
    runner: Runner
    say: Callable[[str], None]
    left_out: dict[str, str]
    rounds: list[Round] = field(default_factory=list)
    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Strategy -> its learning rates in the round before, the best first."""

    @property
    def steps(self) -> list[int]:
        """The steps of the rounds, fewest first."""
        full = self.place.steps
        return sorted({max(min(LEAST_STEPS, full), full // ETA**2), max(min(LEAST_STEPS, full), full // ETA), full})

    def all_with_few_steps(self, field: Sequence[Contender]) -> list[Contender]:
        """Run every contender at its first rate, then at its others as the time allows; return the better half."""
        steps, runner = self.steps[0], self.runner
        until = FIRST_SHARE * runner.left()
        asked: list[TrialSpec] = []
        for contender in field:
            trials = contender.trials(self.place, steps, rates=contender.rates[:1])
            if runner.run(trials):
                asked += trials
            else:
                self.left_out[contender.strategy] = "the time did not allow a trial"
        until = runner.left() - until
        for contender in field:
            trials = contender.trials(self.place, steps, rates=contender.rates[1:]) if contender.rates[1:] else []
            if contender.strategy not in self.left_out and runner.left() - runner.expect(trials) > until:
                runner.run(trials)
                asked += trials
        return self._better_half(field, asked, steps)

    def half_with_more_steps(self, field: Sequence[Contender]) -> list[Contender]:
        """Run contenders at their two best rates with more steps, if that leaves time for the last round."""
        steps = self.steps[min(1, len(self.steps) - 1)]
        trials = [
            trial
            for own in field
            for trial in own.trials(self.place, steps, 0, self.rates.get(own.strategy, own.rates)[:2])
        ]
        fewest = self.last(field[:FEWEST_SEEDS], self.steps[0], range(LEAST_SEEDS))
        if len(field) <= FEWEST_SEEDS or self.runner.expect([*trials, *fewest]) > self.runner.left():
            return list(field)
        self.runner.run(trials)
        return self._better_half(field, trials, steps)

    def _better_half(self, field: Sequence[Contender], trials: Sequence[TrialSpec], steps: int) -> list[Contender]:
        """Note a round, and return the better half of its contenders, at least two, the best first."""
        scores = self._note(steps, trials)
        by_name = {contender.strategy: contender for contender in field}
        kept = max(FEWEST_SEEDS, -(-len(scores) // 2))
        return [by_name[score.strategy] for score in scores[:kept]]

    def _note(self, steps: int, trials: Sequence[TrialSpec]) -> list[Score]:
        of: dict[tuple[str, float], list[float]] = {}
        hparams = {}
        for trial in trials:
            row = self.runner.rows.get(trial.trial_id)
            if row is not None and row.status is Status.COMPLETE:
                of.setdefault((trial.strategy, trial.train.lr), []).append(row.metrics["valid_score"])
                hparams[trial.strategy] = trial.hparams
            elif row is not None:
                self.left_out[trial.strategy] = f"{row.status}: {row.error}"
        means = {key: (len(own), sum(own) / len(own)) for key, own in of.items()}
        order = sorted(means, key=lambda key: means[key], reverse=True)
        self.rates = {name: tuple(lr for own, lr in order if own == name) for name, _ in order}
        for name in self.rates:
            self.left_out.pop(name, None)
        best = [(name, self.rates[name][0]) for name in self.rates]
        best.sort(key=lambda key: means[key][1], reverse=True)
        scores = [Score(name, hparams[name], lr, means[name, lr][1], means[name, lr][0]) for name, lr in best]
        self.rounds.append(Round(steps, len(trials), scores))
        shown = ", ".join(f"{score.strategy} {100 * score.valid:.1f}" for score in scores) or "none came to its end"
        left = max(0.0, self.runner.left())
        self.say(f"Probe: {len(trials)} trials of {steps} steps: {shown} on validation; {left:.0f} s left")
        return scores

    def last(self, field: Sequence[Contender], steps: int, seeds: Iterable[int]) -> list[TrialSpec]:
        """Return the trials of a last round: each contender at its best rate so far, on these seeds."""
        return [
            trial
            for seed in seeds
            for own in field
            for trial in own.trials(self.place, steps, seed, self.rates.get(own.strategy, own.rates)[:1])
        ]

    def best_on_seeds(self, field: Sequence[Contender]) -> None:
        """Run the best on several seeds, with as many steps as the time allows; again with more if it allows that."""
        before = 0
        while (plan := self._plan(field, before)) is not None:
            before, size = plan
            ran: list[TrialSpec] = []
            for seed in range(SEEDS):  # all of a seed or none: scores are paired by it
                trials = self.last(field[:size], before, [seed])
                if not self.runner.run(trials):
                    break
                ran += trials
            if ran:
                order = [score.strategy for score in self._note(before, ran)]
                field = sorted(
                    (own for own in field if own.strategy in order), key=lambda own: order.index(own.strategy)
                )

    def _plan(self, field: Sequence[Contender], before: int) -> tuple[int, int] | None:
        """Return steps, more than before, and number of contenders that the time allows on enough seeds."""
        sizes = [size for size in dict.fromkeys((min(FINALISTS, len(field)), min(FEWEST_SEEDS, len(field)))) if size]
        plans = [(steps, size, LEAST_SEEDS) for steps in reversed(self.steps) for size in sizes if steps > before]
        plans += [(self.steps[0], size, FEWEST_SEEDS) for size in sizes if not before]
        for steps, size, seeds in plans:
            if self.runner.expect(self.last(field[:size], steps, range(seeds))) <= self.runner.left():
                return steps, size
        return None


def probe(
    own: OwnRows,
    situation: Situation,
    fitted: Fitted,
    store: ResultsStore,
    budget: float,
    say: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
) -> Probed:
    """Return the answers before and after short trials on a user's rows, which all go into a store.

    Args:
        own: The rows, and the model.
        situation: What is known of them.
        fitted: What is known from elsewhere.
        store: Takes the rows; trials that it has are not run again.
        budget: Seconds. No trial starts that is not expected to end within them; what is training then is stopped.
        say: Hears a line after each round.
        clock: Seconds that only grow.

    Raises:
        TooShortError: the time is not enough to compare anything, or nothing could be trained.
        ValueError: there are not so many rows.
    """
    begun = clock()
    place = own.on(situation.n_train)
    before = recommend(situation, fitted)
    facts, pace = look(place, clock)
    found = transfer_of(facts)
    similar = None if found is None else found >= SIMILAR_FROM
    known = situation if situation.similar is not None else replace(situation, similar=similar)
    field, left_out = contenders(recommend(known, fitted), place)
    runner = Runner(store, pace, begun + budget, clock)
    race = _Race(place, runner, say, left_out)
    _check_time(race, field, pace, budget, clock() - begun)
    better = race.all_with_few_steps(field)
    race.best_on_seeds(race.half_with_more_steps(better))
    if not any(round_.scores for round_ in race.rounds):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise TooShortError(f"no trial of {place.model} on {own.data} came to its end within {budget:g} s ({reasons})")
    after = recommend(known, _with_the_last_round(fitted, race, store))
    return Probed(
        place=place,
        before=before,
        after=after,
        facts=facts,
        transfer=found,
        similar=similar,
        rounds=race.rounds,
        left_out=left_out,
        ran=runner.ran,
        seconds=clock() - begun,
        budget=budget,
        results=store.name,
    )


def _check_time(race: _Race, field: Sequence[Contender], pace: Pace, budget: float, spent: float) -> None:
    """Raise TooShortError where two strategies cannot be compared on two seeds in the time."""
    fewest = race.last(field[:FEWEST_SEEDS], race.steps[0], range(FEWEST_SEEDS))
    needed = race.runner.expect(fewest)
    if needed > race.runner.left():
        names = " and ".join(own.strategy for own in field[:FEWEST_SEEDS])
        raise TooShortError(
            f"--probe {budget:g}s is too short: comparing {names} with {race.place.model} takes about "
            f"{spent + needed:.0f} s here. --probe {max(1, round(1.5 * (spent + needed)))}s"
        )


def _with_the_last_round(fitted: Fitted, race: _Race, store: ResultsStore) -> Fitted:
    """Return what is known from elsewhere together with the last round, which comes first."""
    place, steps = race.place, next(own.steps for own in reversed(race.rounds) if own.scores)
    contents = store.read()
    here = [
        row
        for row in contents.results
        if (row.spec.model, row.spec.task, row.spec.n_train, row.spec.train.steps)
        == (place.model, place.task, place.n_train, steps)
    ]
    own = fit(Contents(here, [], contents.stores))
    same = (place.model, place.task, place.n_train, steps)
    others = [m for m in fitted.situations if (m.model, m.task, m.n_train, m.steps) != same]
    return Fitted(fitted.trials + own.trials, max(fitted.newest, own.newest), [*own.situations, *others])
