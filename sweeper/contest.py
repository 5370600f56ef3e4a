"""Who wins a situation, by how much and how surely; and which strategy loses least over many situations."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sweeper.spec import TrialResult
from sweeper.summary import Line

BASELINE = "full"
# Fewer seeds decide nothing, where some setting has as many.
MIN_SEEDS = 3
# Means closer than this cannot be told apart, and the one with fewer parameters is the better choice: equal runs
# differ by 0.9 points (standard deviation) in the public tables of peft.
NEARLY = 0.01

Situation = tuple[str, str, int, int]


@dataclass(frozen=True)
class Lead:
    """By how much one score is ahead of another, paired: the mean, and its 95 % interval (Student's t).

    With a single pair there is no interval.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: int

    @classmethod
    def of(cls, gaps: Sequence[float]) -> Lead | None:
        """Return the lead that these differences make; ``None`` without any."""
        from scipy.special import stdtrit

        if not gaps:
            return None
        mean = statistics.fmean(gaps)
        if len(gaps) == 1:
            return cls(mean, None, None, 1)
        half = float(stdtrit(len(gaps) - 1, 0.975)) * statistics.stdev(gaps) / math.sqrt(len(gaps))
        return cls(mean, mean - half, mean + half, len(gaps))

    @property
    def is_settled(self) -> bool:
        """Whether the whole interval is ahead."""
        return self.low is not None and self.low > 0

    @property
    def is_refuted(self) -> bool:
        """Whether the whole interval is behind: what was chosen on valid does worse on test."""
        return self.high is not None and self.high < 0


def lead(line: Line, other: Line) -> Lead | None:
    """Return by how much a line's test score is ahead of another's on the seeds that both have."""
    theirs = {trial.spec.seed: trial.metrics["test_score"] for trial in other.trials}
    mine = {trial.spec.seed: trial.metrics["test_score"] for trial in line.trials}
    return Lead.of([mine[seed] - theirs[seed] for seed in sorted(mine) if seed in theirs])


def _gain(line: Line) -> Lead | None:
    """Return by how much a line's test score is ahead of the source model's before training."""
    return Lead.of(
        [
            trial.metrics["test_score"] - trial.metrics["untouched_test_score"]
            for trial in line.trials
            if "untouched_test_score" in trial.metrics
        ]
    )


@dataclass(frozen=True)
class Contest:
    """All settings that were tried in one situation, the best first.

    Attributes:
        lines: Ordered by mean valid score on the seeds that all share; those with too few seeds come last.
        runner_up: The best setting of another strategy; where there is one strategy, the next setting.
        baseline: Full fine-tuning, where it was tried, has not won and is not the runner-up.
        frugal: Of the settings that are nearly as good on valid, the one that trains the fewest parameters, where
            that is another.
    """

    situation: Situation
    lines: tuple[Line, ...]
    runner_up: Line | None
    baseline: Line | None
    frugal: Line | None

    @property
    def winner(self) -> Line:
        """What does best on valid."""
        return self.lines[0]

    @property
    def over_runner_up(self) -> Lead | None:
        """The winner's lead on test."""
        return lead(self.winner, self.runner_up) if self.runner_up else None

    @property
    def over_baseline(self) -> Lead | None:
        """The winner's lead on test over full fine-tuning."""
        return lead(self.winner, self.baseline) if self.baseline else None

    @property
    def over_source(self) -> Lead | None:
        """The winner's lead on test over the source model before training."""
        return _gain(self.winner)

    @property
    def metric(self) -> str:
        """The task's own score, by its name."""
        return str(self.winner.trials[0].context["metric"])

    def best_of(self) -> dict[str, Line]:
        """Return each strategy's best setting, best strategy first."""
        found: dict[str, Line] = {}
        for line in self.lines:
            found.setdefault(line.strategy, line)
        return found


def contests(lines: Iterable[Line]) -> list[Contest]:
    """Return the contest of each situation, by model, task, rows and steps."""
    groups: dict[Situation, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.situation, []).append(line)
    return [_contest(situation, groups[situation]) for situation in sorted(groups)]


def _contest(situation: Situation, lines: Sequence[Line]) -> Contest:
    least = min(MIN_SEEDS, max(len(line.trials) for line in lines))
    seeds = [{trial.spec.seed for trial in line.trials} for line in lines]
    shared = set.intersection(*(own for own in seeds if len(own) >= least))

    def valid(line: Line) -> float:
        mine = [trial.metrics["valid_score"] for trial in line.trials]
        on_shared = [trial.metrics["valid_score"] for trial in line.trials if trial.spec.seed in shared]
        return statistics.fmean(on_shared or mine)

    ordered = sorted(lines, key=lambda line: (len(line.trials) < least, -valid(line)))
    winner, others = ordered[0], ordered[1:]
    rivals = [line for line in others if line.strategy != winner.strategy] or others
    runner_up = rivals[0] if rivals else None
    baseline = next((line for line in others if line.strategy == BASELINE), None)
    enough = [line for line in ordered if len(line.trials) >= least and valid(line) >= valid(winner) - NEARLY]
    frugal = min(enough, key=lambda line: line.mean("trainable_params"))
    return Contest(
        situation,
        tuple(ordered),
        runner_up,
        None if winner.strategy == BASELINE or baseline is runner_up else baseline,
        None if frugal.mean("trainable_params") >= winner.mean("trainable_params") else frugal,
    )


@dataclass(frozen=True)
class Standing:
    """How one strategy fares over the situations in which it was tried, its best setting in each.

    Attributes:
        lines: Its best setting of each situation.
        lost: By how much its test score is below the best strategy's, in each situation.
        versus: In each situation that has it, full fine-tuning's best setting.
    """

    strategy: str
    lines: Mapping[Situation, Line]
    lost: Mapping[Situation, float]
    versus: Mapping[Situation, Line]

    @property
    def best_in(self) -> int:
        """In how many situations no other strategy has a higher test score."""
        return sum(points == 0 for points in self.lost.values())

    @property
    def mean_lost(self) -> float:
        """What it loses on average, each task counting the same: situations of one task are alike."""
        return statistics.fmean(_by_task(self.lost).values())

    @property
    def worst(self) -> float:
        """The most that it loses anywhere."""
        return max(self.lost.values())

    def median(self, number: Callable[[Line], float]) -> float:
        """Return the median over situations of a number of a line."""
        return statistics.median(number(line) for line in self.lines.values())

    def ratio(self, metric: str) -> float | None:
        """Return the median over situations of a cost, as a multiple of full fine-tuning's."""
        pairs = [
            (line.mean(metric), self.versus[key].mean(metric)) for key, line in self.lines.items() if key in self.versus
        ]
        return statistics.median(mine / theirs for mine, theirs in pairs if theirs) if pairs else None

    def forgets(self) -> float | None:
        """Return the mean over situations of what is lost on the source domain."""
        spreads = [spread.mean for line in self.lines.values() if (spread := line.spread("forgetting"))]
        return statistics.fmean(spreads) if spreads else None

    def over(self, other: Standing) -> Lead | None:
        """Return by how much it loses less than another, paired by task over the situations that both have."""
        both = {key: other.lost[key] - mine for key, mine in self.lost.items() if key in other.lost}
        return Lead.of([*_by_task(both).values()])


def _by_task(values: Mapping[Situation, float]) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for (_, task, _, _), value in values.items():
        groups.setdefault(task, []).append(value)
    return {task: statistics.fmean(own) for task, own in groups.items()}


def standings(found: Sequence[Contest]) -> list[Standing]:
    """Return strategies, those first that lose least; those tried in fewer than half of the situations come after."""
    best = {contest.situation: contest.best_of() for contest in found}
    top = {key: max(line.mean("test_score") for line in here.values()) for key, here in best.items()}
    versus = {key: here[BASELINE] for key, here in best.items() if BASELINE in here}
    strategies = dict.fromkeys(strategy for here in best.values() for strategy in here)
    all_of_them = []
    for strategy in strategies:
        lines = {key: here[strategy] for key, here in best.items() if strategy in here}
        lost = {key: top[key] - line.mean("test_score") for key, line in lines.items()}
        all_of_them.append(Standing(strategy, lines, lost, versus))
    return sorted(all_of_them, key=lambda it: (len(it.lines) < len(found) / 2, it.mean_lost))


def situation_of(row: TrialResult) -> Situation:
    """Return the situation of a row."""
    return row.spec.model, row.spec.task, row.spec.n_train, row.spec.train.steps
