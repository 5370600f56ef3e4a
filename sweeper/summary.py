"""What a set of trials says: for each strategy and its hyperparameters, the rates chosen on valid, reported on test."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.diagnose import DIAGNOSES, diagnoses_of
from sweeper.spec import Status, TrialResult

# A task counts as similar to the source domain from this `similarity` on; where there is none, as similar to what
# the model was pretrained on from this `transfer` on. A heuristic: see there.
SIMILAR_FROM = 0.9


@dataclass(frozen=True)
class Spread:
    """A mean over seeds, and their standard deviation: ``None`` for a single seed."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return mean and spread of values, of which there is at least one."""
        values = list(values)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Line:
    """One strategy with one set of hyperparameters on one model, task, number of rows and budget.

    Attributes:
        train: The training arguments that had the best mean valid score over seeds, all others being
            reported nowhere: they are what the search for a learning rate threw away.
        trials: The complete trials with those arguments, one a seed.
        searched: How many training arguments were compared.
        diverged: How many trials diverged, whatever their training arguments.
        pruned: Seeds that were stopped early with those arguments: the means are over the better ones that are left.
    """

    model: str
    task: str
    n_train: int
    strategy: str
    hparams: Mapping[str, Any]
    train: Mapping[str, Any]
    trials: tuple[TrialResult, ...]
    searched: int
    diverged: int = 0
    pruned: int = 0

    def spread(self, metric: str) -> Spread | None:
        """Return a metric's mean and spread over the seeds that have it."""
        values = [trial.metrics[metric] for trial in self.trials if metric in trial.metrics]
        return Spread.of(values) if values else None

    def mean(self, metric: str) -> float:
        """Return a metric's mean over seeds; every complete trial has scores and costs."""
        return statistics.fmean(trial.metrics[metric] for trial in self.trials)

    def diagnoses(self) -> dict[str, int]:
        """Return on how many seeds each diagnosis was made; divergence is counted over all training arguments."""
        found = [name for trial in self.trials for name in diagnoses_of(trial)] + ["divergence"] * self.diverged
        return {name: found.count(name) for name in DIAGNOSES if name in found}

    @property
    def steps(self) -> int:
        """The budget: optimizer steps of each trial."""
        return int(self.train["steps"])

    @property
    def situation(self) -> tuple[str, str, int, int]:
        """What may be compared within: model, task, number of rows, and the budget in steps."""
        return self.model, self.task, self.n_train, self.steps


def summarise(results: Iterable[TrialResult]) -> list[Line]:
    """Return one line for each strategy and set of hyperparameters, situation by situation.

    Training arguments are compared on the mean valid score, among those that are complete on the most
    seeds: an average over fewer seeds is not comparable. A setting that diverged on some seed has fewer. Of two that
    are level the one with the lower rate counts, whatever the order of the rows.
    """
    groups: dict[str, dict[str, list[TrialResult]]] = {}
    diverged: Counter[str] = Counter()
    pruned: Counter[tuple[str, str]] = Counter()
    for result in results:
        spec = result.spec
        same = [spec.model, spec.task, spec.n_train, spec.train.steps, spec.strategy, dict(spec.hparams)]
        line = json.dumps(same, sort_keys=True)
        setting = json.dumps(spec.to_dict()["train"], sort_keys=True)
        group = groups.setdefault(line, {}).setdefault(setting, [])
        if result.status is Status.COMPLETE:
            group.append(result)
        diverged[line] += result.status is Status.DIVERGED
        pruned[line, setting] += result.status is Status.PRUNED

    lines = []
    for line, settings in groups.items():
        best = max(sorted(settings, key=_rate), key=lambda s: (len(settings[s]), _mean_valid(settings[s])))
        trials = sorted(settings[best], key=lambda trial: trial.spec.seed)
        if not trials:
            continue
        spec = trials[0].spec
        lines.append(
            Line(
                spec.model,
                spec.task,
                spec.n_train,
                spec.strategy,
                spec.hparams,
                json.loads(best),
                tuple(trials),
                len(settings),
                diverged[line],
                pruned[line, best],
            )
        )
    return lines


def similarity(lines: Iterable[Line]) -> float | None:
    """Return how well the source model does on the new task before training, relative to its own task.

    The mean over trials of the test score on the new task divided by that on the source domain; ``None``
    where there is no source domain.
    """
    ratios = [
        trial.metrics["untouched_test_score"] / trial.metrics["untouched_source_test_score"]
        for line in lines
        for trial in line.trials
        if trial.metrics.get("untouched_source_test_score")
    ]
    return statistics.fmean(ratios) if ratios else None


def transfer(lines: Iterable[Line]) -> float | None:
    """Return how far the model's features as loaded go from chance to perfect on the new task.

    The better of k-NN and a linear probe on frozen features, on the validation rows: 0 is what the most frequent
    answer gets, 1 is every row right. ``None`` where rows do not say.

    That cheap scores of frozen features tell how well a model transfers: LogME, arXiv 2102.11005; a task on which
    they come near to perfect leaves fine-tuning little to learn. Difficulty looks like distance here: a task that
    nothing solves well, or one with a handful of rows, counts as different.
    """
    found = (transfer_of(trial.context) for line in lines for trial in line.trials)
    shares = [share for share in found if share is not None]
    return statistics.fmean(shares) if shares else None


def transfer_of(facts: Mapping[str, Any]) -> float | None:
    """Return the same from the facts of one task and model (`sweeper.facts`)."""
    scores = [facts[name] for name in ("knn_score", "probe_score") if name in facts]
    # Where each token has a label, its features are looked at one by one.
    chance = facts.get("chance_token_score", facts.get("chance_score"))
    if not scores or chance is None or chance >= 1:
        return None
    return max(0.0, (max(scores) - chance) / (1 - chance))


def untouched(lines: Sequence[Line]) -> Spread | None:
    """Return the source model's test score before training, over the seeds of the line that has most of them."""
    return max(lines, key=lambda line: len(line.trials)).spread("untouched_test_score")


def _rate(setting: str) -> tuple[float, str]:
    return json.loads(setting)["lr"], setting


def _mean_valid(trials: Iterable[TrialResult]) -> float:
    values = [trial.metrics["valid_score"] for trial in trials]
    return statistics.fmean(values) if values else -math.inf
