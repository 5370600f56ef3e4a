"""What candidates lose to the best of a situation, learned from other situations: a Gaussian process.

Its covariance is a sum of products (`advisor.likeness`): what a strategy loses everywhere, on backbones of a like size,
on training sets of a like size, at near settings on near tasks, ... How much each explains is a variance, learned by
maximum likelihood (Rasmussen and Williams 2006, section 5.4): where nothing but the strategy matters, what is left is
the single best strategy, each mean shrunk by how little is known of it (best linear unbiased prediction).

Losses are cut off at their median: by how much the bad half is bad says little about which of the good is best.
Large tables are projected onto some of their rows (the subset of regressors, section 8.3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from advisor.likeness import Array, Codes, Likeness, renumbered

CUT_AT = 0.5
"""Quantile of the losses at which they are cut off."""
MOST_ROWS = 600
"""Rows onto which a larger table is projected."""
MOST_FITTED = 300
"""Rows that decide on the variances."""
LEVEL = 100.0
"""Variance of what all candidates of a situation share: next to infinite."""
PRIOR_MEAN, PRIOR_STD = -2.5, 2.0
"""Of the logarithms of the variances, which are in units of the losses' variance."""
STEPS = 40
JITTER = 1e-6
DRAWS = 200


def targets(losses: Array, situation: Codes, among: Codes) -> tuple[Array, float]:
    """Return what the process learns, for all rows, and the points of loss that one of its units is.

    Losses cut off, turned round so that higher is better, centred in each situation; ``among`` says which rows decide
    where the cut is and what the unit is.
    """
    positive = losses[among][losses[among] > 0]
    cut = float(np.quantile(positive, CUT_AT)) if len(positive) else 1.0
    found = centred(-np.minimum(losses, cut)[:, None], situation)[:, 0]
    unit = float(np.sqrt(np.mean(found[among] ** 2))) or 1.0
    return found / unit, unit


def centred(values: Array, situation: Codes) -> Array:
    """Return values ``(rows, columns)`` less the mean of their situation."""
    count = np.bincount(situation)
    sums = np.zeros((len(count), values.shape[1]))
    np.add.at(sums, situation, values)
    found: Array = values - (sums / np.maximum(count, 1)[:, None])[situation]
    return found


def thinned(situation: Codes, among: Codes, most: int, seed: int = 0) -> Codes:
    """Return at most so many of some rows, spread over their situations."""
    if len(among) <= most:
        return among
    order = np.random.default_rng(seed).permutation(among)
    taken: dict[int, int] = {}
    turn = np.empty(len(order), dtype=np.int64)
    for i, row in enumerate(order):
        turn[i] = taken[int(situation[row])] = taken.get(int(situation[row]), -1) + 1
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])


def learned_variances(likeness: Likeness, y: Array, among: Codes) -> Array:
    """Return the variance of each component, and of the noise, that make what was measured likeliest."""
    from scipy.optimize import minimize  # not needed for an answer, which finds them in the fitted file

    rows = thinned(likeness.situation, among, MOST_FITTED)
    parts, own = likeness.each(rows), y[rows]
    same = (likeness.situation[rows][:, None] == likeness.situation[rows][None, :]).astype(float)
    flat = parts.reshape(len(parts), -1)
    noise = np.eye(len(rows))

    def cost(logs: Array) -> tuple[float, Array]:
        variances = np.exp(logs)
        total = (variances[:-1] @ flat).reshape(noise.shape) + (variances[-1] + JITTER) * noise + LEVEL * same
        try:
            lower = np.linalg.cholesky(total)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(logs)
        inverse = np.linalg.inv(total)
        solved = inverse @ own
        slope = inverse - np.outer(solved, solved)
        by_part = 0.5 * variances[:-1] * (flat @ slope.ravel())
        off = (logs - PRIOR_MEAN) / PRIOR_STD
        value = 0.5 * own @ solved + np.log(np.diag(lower)).sum() + 0.5 * (off**2).sum()
        return float(value), np.append(by_part, 0.5 * variances[-1] * np.trace(slope)) + off / PRIOR_STD

    start = np.full(len(parts) + 1, -2.0)
    found = minimize(
        cost, start, jac=True, method="L-BFGS-B", bounds=[(-9.0, 3.0)] * len(start), options={"maxiter": STEPS}
    )
    return np.exp(np.asarray(found.x, dtype=float))


@dataclass(frozen=True)
class Posterior:
    """What is expected of some candidates of a situation, in units of `targets`, and draws of what may be.

    Attributes:
        mean: ``(candidates,)``.
        draws: ``(DRAWS, candidates)``.
    """

    mean: Array
    draws: Array

    def order(self, first: int | None = None) -> list[int]:
        """Return the candidates as they are to be tried: each the one by which the best so far should gain most.

        The first is the best by itself, or the one that is named.
        """
        chosen = [int(np.argmax(self.mean)) if first is None else first]
        best = self.draws[:, chosen[0]].copy()
        left = np.ones(len(self.mean), dtype=bool)
        left[chosen] = False
        for _ in range(min(len(self.mean), 10) - 1):
            gains = np.maximum(self.draws - best[:, None], 0.0).mean(0) + 1e-6 * self.mean
            following = int(np.argmax(np.where(left, gains, -np.inf)))
            chosen.append(following)
            left[following] = False
            best = np.maximum(best, self.draws[:, following])
        rest = [int(i) for i in np.argsort(-self.mean, kind="stable") if left[i]]
        return chosen + rest


class Process:
    """A Gaussian process over the rows of a table, for given variances; any groups can be left out again."""

    def __init__(self, likeness: Likeness, variances: Array, y: Array, rows: Codes, group: Codes) -> None:
        """Learn from ``rows``; ``y`` and ``group`` are of all rows."""
        self._noise = float(variances[-1]) + JITTER
        places = thinned(likeness.situation, rows, MOST_ROWS)
        inner = likeness.between(variances[:-1], places, places) + JITTER * np.eye(len(places))
        everything = np.arange(len(y))
        # Rows as features: covariances between them are the features' products.
        outer = likeness.between(variances[:-1], everything, places)
        self._features = np.linalg.solve(np.linalg.cholesky(inner), outer.T).T
        trained = np.zeros_like(self._features)
        trained[rows] = centred(self._features[rows], renumbered(likeness.situation[rows]))
        self._precision: dict[int, tuple[Array, Array]] = {}
        for own in np.unique(group[rows]):
            mine = rows[group[rows] == own]
            self._precision[int(own)] = (
                trained[mine].T @ trained[mine] / self._noise,
                trained[mine].T @ y[mine] / self._noise,
            )
        self._whole = (
            (1 + JITTER) * np.eye(len(places)) + sum(own[0] for own in self._precision.values()),
            np.zeros(len(places)) + sum(own[1] for own in self._precision.values()),
        )
        self._standard = np.random.default_rng(0).standard_normal((DRAWS, len(places)))

    def without(self, groups: Sequence[int]) -> _Weights:
        """Return what is learned from all groups but some."""
        precision, pull = self._whole
        for own in groups:
            if own in self._precision:
                precision = precision - self._precision[own][0]
                pull = pull - self._precision[own][1]
        mean = np.asarray(np.linalg.solve(precision, pull), dtype=float)
        return _Weights(self._features, mean, precision, self._standard)


@dataclass(frozen=True)
class _Weights:
    """What a process learned: weights of the features, their mean and precision."""

    features: Array
    mean: Array
    precision: Array
    standard: Array

    def mean_of(self, rows: Codes) -> Array:
        """Return what is expected of the candidates of one situation, which are some rows."""
        found: Array = (self.features[rows] - self.features[rows].mean(0)) @ self.mean
        return found

    def of(self, rows: Codes) -> Posterior:
        """Return the same with draws of what may be."""
        own = self.features[rows] - self.features[rows].mean(0)
        lower = np.linalg.cholesky(self.precision)
        spread = np.linalg.solve(lower.T, self.standard.T).T @ own.T
        return Posterior(own @ self.mean, own @ self.mean + spread)
