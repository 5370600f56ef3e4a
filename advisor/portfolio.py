"""Which strategies lose least over situations that were measured, and how far scores carry to another task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advisor.evidence import Carry, Measured
from advisor.situation import Situation

SHRINK = 1.0
"""How many situations the mean of all strategies is worth."""
LEAST_TASKS = 5
"""An interval for another task needs so many to be learned from."""
SIZE = 3


@dataclass(frozen=True)
class Standing:
    """How a strategy does over situations.

    Attributes:
        behind: Points of the test score below the best of each situation; the mean, near situations counting more,
            shrunk towards that of all strategies.
        situations: In how many it was tried.
        place: In the portfolio, from 1; ``None`` outside.
    """

    strategy: str
    behind: float
    situations: int
    place: int | None


def standings(measured: Sequence[Measured], situation: Situation) -> list[Standing]:
    """Return the strategies, the best first, and which three make up for one another best (a greedy portfolio)."""
    lost = [_lost(own) for own in measured]
    weights = [math.exp(-own.distance(situation)) for own in measured]
    everything = [(weight, value) for weight, own in zip(weights, lost, strict=True) for value in own.values()]
    total = sum(weight for weight, _ in everything)
    overall = sum(weight * value for weight, value in everything) / total if total else 0.0
    behind = {}
    for strategy in dict.fromkeys(name for own in lost for name in own):
        tried = [(w, own[strategy]) for w, own in zip(weights, lost, strict=True) if strategy in own]
        behind[strategy] = (sum(w * value for w, value in tried) + SHRINK * overall) / (
            sum(w for w, _ in tried) + SHRINK
        )
    chosen = _portfolio(lost, weights, behind)
    return [
        Standing(
            name,
            100 * behind[name],
            sum(name in own for own in lost),
            chosen.index(name) + 1 if name in chosen else None,
        )
        for name in sorted(behind, key=lambda name: behind[name])
    ]


def _lost(measured: Measured) -> dict[str, float]:
    """Return by how much each strategy's test score is below the best of a situation."""
    ranked = measured.ranked()
    best = max(setting.mean_test for setting in ranked)
    return {setting.strategy: best - setting.mean_test for setting in ranked}


def _portfolio(lost: Sequence[Mapping[str, float]], weights: Sequence[float], behind: Mapping[str, float]) -> list[str]:
    """Return strategies of which the best one is to be expected to lose least: one added after the other."""
    chosen: list[str] = []
    while len(chosen) < min(SIZE, len(behind)):

        def left(name: str) -> tuple[float, float]:
            both = [*chosen, name]
            sums = sum(w * min(own.get(s, behind[s]) for s in both) for w, own in zip(weights, lost, strict=True))
            return sums, behind[name]

        chosen.append(min((name for name in behind if name not in chosen), key=left))
    return chosen


def carries(measured: Sequence[Measured]) -> dict[str, Carry]:
    """Return how far scores carry to another task, from situations that are "near", and from others that are "far".

    Each task's scores are predicted from the nearest situation of the other tasks, as `recommend` does, and the 90 %
    quantile of the errors taken over tasks (conformal prediction with grouped data, arXiv 1809.07441).
    """
    errors: dict[str, dict[str, list[float]]] = {"near": {}, "far": {}}
    for own in measured:
        asked = own.as_situation()
        others = sorted(
            (m for m in measured if m.task != own.task and m.metric == own.metric and m.fits(asked)),
            key=lambda m: (not m.is_near(asked), m.distance(asked)),
        )
        for strategy in dict.fromkeys(setting.strategy for setting in own.settings):
            nearest = next((m for m in others if any(s.strategy == strategy for s in m.settings)), None)
            if nearest is not None:
                off = abs(nearest.best(strategy).mean_test - own.best(strategy).mean_test)
                kind = "near" if nearest.is_near(asked) else "far"
                errors[kind].setdefault(own.task, []).append(off)
    return {
        kind: Carry(100 * _quantile(list(of.values())), len(of))
        for kind, of in errors.items()
        if len(of) >= LEAST_TASKS
    }


def _quantile(groups: Sequence[Sequence[float]], share: float = 0.9) -> float:
    """Return a quantile of errors, each group weighing the same."""
    weighted = sorted((error, 1 / len(group)) for group in groups for error in group)
    reached = 0.0
    for error, weight in weighted:
        reached += weight / len(groups)
        if reached >= share - 1e-12:
            return error
    return weighted[-1][0]
