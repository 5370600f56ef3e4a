"""How much each hyperparameter matters: the score over its values, everything else being chosen anew for each."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.spec import Status, TrialResult
from sweeper.summary import Spread

TRAIN = ("lr", "batch_size", "weight_decay", "warmup")


@dataclass(frozen=True)
class Profile:
    """The valid score of one strategy over the values of one hyperparameter.

    Attributes:
        points: Value and spread over seeds, of the best among the settings that have this value.
    """

    strategy: str
    name: str
    points: tuple[tuple[Any, Spread], ...]

    @property
    def best(self) -> Any:
        """The value with the highest mean."""
        return max(self.points, key=lambda point: point[1].mean)[0]

    @property
    def range(self) -> float:
        """Between the best value's mean and the worst's."""
        means = [spread.mean for _, spread in self.points]
        return max(means) - min(means)

    @property
    def is_number(self) -> bool:
        """Whether its values have an order."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value, _ in self.points)


def profiles(rows: Iterable[TrialResult]) -> list[Profile]:
    """Return a profile for each strategy and hyperparameter of which more than one value was tried.

    Args:
        rows: Of one situation: scores of different situations are no sensitivity.
    """
    strategies: dict[str, list[tuple[dict[str, Any], float]]] = {}
    for row in rows:
        if row.status is Status.COMPLETE:
            strategies.setdefault(row.spec.strategy, []).append((_settings(row), row.metrics["valid_score"]))
    found = []
    for strategy, trials in sorted(strategies.items()):
        for name in dict.fromkeys(name for settings, _ in trials for name in settings):
            points = _points(name, trials)
            if len(points) > 1:
                found.append(Profile(strategy, name, points))
    return found


def _settings(row: TrialResult) -> dict[str, Any]:
    return {**{name: getattr(row.spec.train, name) for name in TRAIN}, **row.spec.hparams}


def _points(name: str, trials: Iterable[tuple[Mapping[str, Any], float]]) -> tuple[tuple[Any, Spread], ...]:
    """Return each value of a hyperparameter with the best of its settings, compared as `summarise` does."""
    values: dict[str, Any] = {}
    groups: dict[str, dict[str, list[float]]] = {}
    for settings, score in trials:
        if name not in settings:
            continue
        key = json.dumps(settings[name], sort_keys=True)
        values[key] = settings[name]
        rest = json.dumps({other: value for other, value in settings.items() if other != name}, sort_keys=True)
        groups.setdefault(key, {}).setdefault(rest, []).append(score)
    best = {
        key: max(others.values(), key=lambda scores: (len(scores), statistics.fmean(scores)))
        for key, others in groups.items()
    }
    points = [(values[key], Spread.of(scores)) for key, scores in best.items()]
    if all(isinstance(value, int | float) for value, _ in points):
        points.sort(key=lambda point: point[0])
    return tuple(points)
