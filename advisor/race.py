"""The rounds of a probe: many strategies with few steps, the better half with more, the best on several seeds.

Successive halving over strategies (Jamieson and Talwalkar 2016, arXiv 1502.07943). Trials of different steps are never
compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from advisor.contenders import Contender
from advisor.evidence import TIE
from advisor.own import Place
from advisor.pace import Runner
from sweeper.spec import Status, TrialSpec

FIRST_SHARE = 0.4
"""Of the time, for the round with all candidates."""
ETA = 3
LEAST_STEPS = 10
"""Of a round that is not the longest: in fewer, hardly anything is learned."""
MOST_FINALISTS, FEWEST_FINALISTS = 3, 2
SEEDS, LEAST_SEEDS, FEWEST_SEEDS = 5, 3, 2
"""Of the last round: at most, what it is planned for, and what is better than nothing."""


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
class Race:
    """The rounds of one probe."""

    place: Place
    runner: Runner
    say: Callable[[str], None]
    left_out: dict[str, str]
    rounds: list[Round] = field(default_factory=list)
    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Strategy -> its learning rates in the last round that it was in, the best first."""

    @property
    def steps(self) -> list[int]:
        """The steps of the rounds, fewest first."""
        full = self.place.steps
        return [*(n for n in (full // ETA**2, full // ETA) if n >= LEAST_STEPS), full]

    def all_with_few_steps(self, field: Sequence[Contender]) -> list[Contender]:
        """Run every contender at its first rate, then at its others as the time allows; return the better half."""
        steps, runner, asked = self.steps[0], self.runner, list[TrialSpec]()
        kept_back = runner.left() * (1 - FIRST_SHARE)
        for number, contender in enumerate(field):
            trials = contender.trials(self.place, steps, rates=contender.rates[:1])
            if (number < FEWEST_FINALISTS or self._leaves_time(trials, self._least(field))) and runner.run(trials):
                asked += trials
            else:
                self.left_out[contender.strategy] = "the time did not allow a trial"
        for contender in field:
            trials = contender.trials(self.place, steps)[1:]
            tried = contender.strategy not in self.left_out
            if tried and self._leaves_time(trials, max(kept_back, self._least(field))) and runner.run(trials):
                asked += trials
        return self._better_half(field, asked, steps)

    def _leaves_time(self, trials: Sequence[TrialSpec], seconds: float) -> bool:
        return self.runner.left() - self.runner.expect(trials) >= seconds

    def _least(self, field: Sequence[Contender]) -> float:
        """Return how long the shortest last round that decides something is expected to take."""
        return self.runner.expect(self.last(field[:FEWEST_FINALISTS], self.steps[0], range(LEAST_SEEDS)))

    def half_with_more_steps(self, field: Sequence[Contender]) -> list[Contender]:
        """Run contenders at their two best rates with more steps, if that leaves time for the last round."""
        steps = self.steps[min(1, len(self.steps) - 1)]
        trials = [
            trial
            for own in field
            for trial in own.trials(self.place, steps, 0, self.rates.get(own.strategy, own.rates)[:2])
        ]
        if len(field) <= FEWEST_FINALISTS or not self._leaves_time(trials, self._least(field)):
            return list(field)
        self.runner.run(trials)
        return self._better_half(field, trials, steps)

    def _better_half(self, field: Sequence[Contender], trials: Sequence[TrialSpec], steps: int) -> list[Contender]:
        """Note a round, and return the better half of its contenders, at least two, the best first."""
        scores = self._note(steps, trials)
        by_name = {contender.strategy: contender for contender in field}
        kept = max(FEWEST_FINALISTS, -(-len(scores) // 2))
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
        rates = {name: tuple(lr for own, lr in order if own == name) for name, _ in order}
        self.rates.update(rates)
        for name in rates:
            self.left_out.pop(name, None)
        best = [(name, own[0]) for name, own in rates.items()]
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

    def best_on_seeds(self, field: Sequence[Contender], others: Sequence[Contender]) -> None:
        """Run the best on several seeds, with as many steps as the time allows; again with more if it allows that.

        What time is left then goes to those that fell behind before: they had fewer steps to show what they can.
        """
        before = 0
        while (plan := self._plan(field, before)) is not None:
            before, size = plan
            ran: list[TrialSpec] = []
            for seed in range(SEEDS):  # all of a seed or none: scores are paired by it
                trials = self.last(field[:size], before, [seed])
                if not self.runner.run(trials):
                    break
                ran += trials
                if seed + 1 >= LEAST_SEEDS and self._plan(field, before) is not None:
                    break  # more steps tell more than more seeds of few
            if ran and before == self.place.steps:
                seeds = {trial.seed for trial in ran}
                for own in others:
                    trials = self.last([own], before, seeds)
                    if self.runner.run(trials):
                        ran += trials
            if ran:
                order = [score.strategy for score in self._note(before, ran)]
                field = sorted(
                    (own for own in field if own.strategy in order), key=lambda own: order.index(own.strategy)
                )

    def _plan(self, field: Sequence[Contender], before: int) -> tuple[int, int] | None:
        """Return steps, more than before, and number of contenders that the time allows on enough seeds."""
        sizes = [
            size for size in dict.fromkeys((min(MOST_FINALISTS, len(field)), min(FEWEST_FINALISTS, len(field)))) if size
        ]
        plans = [(steps, size, LEAST_SEEDS) for steps in reversed(self.steps) for size in sizes if steps > before]
        plans += [(self.steps[0], size, FEWEST_SEEDS) for size in sizes if not before]
        for steps, size, seeds in plans:
            if self.runner.expect(self.last(field[:size], steps, range(seeds))) <= self.runner.left():
                return steps, size
        return None

    def deciding(self, near_before: bool, frozen: float | None) -> tuple[Round | None, str]:
        """Return the round that an answer may rest on, the last that has what it takes; if none has, the reason.

        Args:
            near_before: Whether near trials spoke before: two seeds do not overrule these.
            frozen: What frozen features score by themselves. Short trials that end below have not begun to tell.
        """
        least = LEAST_SEEDS if near_before else FEWEST_SEEDS
        rounds = [own for own in self.rounds if max((score.seeds for score in own.scores), default=0) >= least]
        if not rounds:
            return None, f"no strategy has {least} seeds"
        best = 0.0
        for own in sorted(rounds, key=lambda own: (own.scores[0].seeds >= LEAST_SEEDS, own.steps), reverse=True):
            best = max(score.valid for score in own.scores)
            if own.steps >= self.place.steps or frozen is None or best >= frozen - TIE:
                return own, ""
        return None, (
            f"the best trial of {own.steps} of {self.place.steps} steps, {100 * best:.1f} on validation, is below what "
            f"frozen features score, {100 * (frozen or 0.0):.1f}: so few steps do not tell yet"
        )
