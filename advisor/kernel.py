"""What candidates lose to the best of a situation, learned from other situations: means over what is alike.

A candidate is a strategy, or a strategy with hyperparameters. What it loses in a situation (points below the best
there, so that sources with other scales and levels can stand side by side) is predicted in three steps, each shrunk
towards the one before: the mean of all candidates, the mean of its strategy, the mean of near settings in near
situations. How much nearness counts is chosen by leaving groups out; where it does not help, it counts nothing, and
what is left is the single best candidate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from advisor.rules import DEFAULTS
from advisor.table import names_of, situations

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Bandwidth:
    """How near is near.

    Attributes:
        situation: Distance between situations at which a row counts e times less; infinite: all count alike.
        backbone: What another backbone adds to the distance, times what `MISMATCH` says.
        setting: The same for hyperparameters, a decade of a number being 1.
        shrink: How many rows the mean of the strategy is worth.
    """

    situation: float
    setting: float
    shrink: float
    backbone: float = 1.0


PLAIN = Bandwidth(math.inf, 0.3, 0.5)
BANDWIDTHS = [
    PLAIN,
    *(Bandwidth(near, 0.3, 0.5, backbone) for near in (4.0, 2.0, 1.0, 0.5, 0.25) for backbone in (0.0, 1.0, 4.0)),
    Bandwidth(1.0, 0.3, 3.0),
    Bandwidth(math.inf, 1.0, 0.5),
    Bandwidth(2.0, 1.0, 0.5),
]
SHRINK_STRATEGY = 1.0  # how many rows the mean of all is worth
OFF_DEFAULT = 2.0
"""Points that a learning rate is expected to lose for each decade off the literature's, where no row speaks of it."""
RATES = ("lr", "learning_rate", "params.lr", "params.learning_rate")
MISMATCH = {"modality": 2.0, "task_family": 1.0, "task": 0.5, "backbone": 1.0}
DECADES = {"n_train": 1.0, "backbone_params": 0.5}
OTHER_SOURCE = 0.05
"""What a row of another source counts: tables of two labs differ by more than what their methods do."""
MISSING = 0.5
ALIASES = {
    "full_fine_tuning": "full",
    "full_finetuning": "full",
    "finetune": "full",
    "linear_probe": "feature_extraction",
    "frozen": "feature_extraction",
    "adapter_series": "adapter",
    "adapters": "adapter",
}
CHUNK = 2_000


@dataclass
class Table:
    """Candidates in situations.

    Attributes:
        frame: One row for each candidate of each situation: the columns of `advisor.table`, and ``loss``.
        situation: Number of each row's situation.
        strategy: Number of each row's strategy.
        group: Number of what is left out together.
        loss: Points below the best of the situation.
    """

    frame: pd.DataFrame
    situation: np.ndarray[Any, np.dtype[np.int64]]
    strategy: np.ndarray[Any, np.dtype[np.int64]]
    group: np.ndarray[Any, np.dtype[np.int64]]
    loss: Array

    @classmethod
    def of(cls, frame: pd.DataFrame, group_by: Sequence[str]) -> Table:
        """Return the table of a frame with a row for each candidate; situations with one candidate are left out."""
        frame = frame.assign(_situation=situations(frame))
        many = frame.groupby("_situation")["score"].transform("size") > 1
        frame = frame[many].reset_index(drop=True)
        frame = frame.loc[:, ~frame.columns.duplicated()]
        loss = frame.groupby("_situation")["score"].transform("max") - frame["score"]
        group = pd.Series(["|".join(map(str, own)) for own in frame[list(group_by)].itertuples(index=False)], dtype=str)
        situation, strategy, number = (pd.factorize(own)[0] for own in (frame["_situation"], frame["strategy"], group))
        return cls(frame, situation, strategy, number, loss.to_numpy(float))


def situation_distances(frame: pd.DataFrame, others: pd.DataFrame, backbone: float = 1.0) -> Array:
    """Return how far situations are from one another, ``(len(frame), len(others))``."""
    total = np.zeros((len(frame), len(others)))
    for name, weight in {**MISMATCH, "backbone": backbone * MISMATCH["backbone"]}.items():
        codes = pd.factorize(pd.concat([frame[name], others[name]]).astype(str))[0]
        total += weight * (codes[: len(frame), None] != codes[None, len(frame) :])
    for name, weight in DECADES.items():
        factor = backbone if name == "backbone_params" else 1.0
        total += factor * weight * _decades(frame[name], others[name])
    return total


def _decades(own: pd.Series, others: pd.Series) -> Array:
    a, b = (pd.to_numeric(column, errors="coerce").to_numpy(float) for column in (own, others))
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.abs(np.log10(a)[:, None] - np.log10(b)[None, :])
    return np.where(np.isfinite(gap), np.minimum(gap, 3.0), MISSING)


def setting_features(settings: Sequence[dict[str, Any]]) -> tuple[Array, Array]:
    """Return hyperparameters of one strategy as numbers ``(n, keys)`` in decades, and as codes ``(n, keys)``.

    A cell is a number or a code (of a text, a switch, a number below zero); of the two the other is NaN. A key that
    is absent is NaN in both.
    """
    varying = sorted({key for own in settings for key in own})
    numbers = np.full((len(settings), len(varying)), np.nan)
    codes = np.full((len(settings), len(varying)), np.nan)
    for column, key in enumerate(varying):
        known: dict[str, int] = {}
        for row, own in enumerate(settings):
            value = own.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
                numbers[row, column] = math.log10(value)
            elif key in own:
                codes[row, column] = known.setdefault(repr(value), len(known))
    return numbers, codes


def setting_distances(features: tuple[Array, Array], rows: slice) -> Array:
    """Return how far some settings are from all of their strategy, ``(rows, n)``."""
    numbers, codes = features
    total = np.zeros((len(numbers[rows]), len(numbers)))
    for column in range(numbers.shape[1]):
        a, b = numbers[rows, column][:, None], numbers[None, :, column]
        c, d = codes[rows, column][:, None], codes[None, :, column]
        gap = np.minimum(np.abs(a - b), 3.0)  # NaN where either is no number
        same = (c == d) | (np.isnan(a) & np.isnan(b) & np.isnan(c) & np.isnan(d))
        total += np.where(np.isnan(gap), np.where(same, 0.0, MISSING), gap)
    return total


@dataclass
class Sums:
    """For each row of a table, what the rows of each group say of it: weights and losses, ``(rows, groups)``."""

    weights: Array
    losses: Array
    strategy_weights: Array
    strategy_losses: Array
    group_rows: Array
    group_losses: Array
    off_default: Array

    def predict(self, rows: np.ndarray[Any, Any], left_out: Sequence[int], shrink: float) -> Array:
        """Return what rows are expected to lose, from all groups but those that are left out."""
        out = list(left_out)
        overall = (self.group_losses.sum() - self.group_losses[out].sum()) / max(
            1.0, self.group_rows.sum() - self.group_rows[out].sum()
        )

        def without(sums: Array) -> Array:
            own = sums[rows]
            kept: Array = own.sum(1) - own[:, out].sum(1)
            return kept

        strategy = (without(self.strategy_losses) + SHRINK_STRATEGY * overall) / (
            without(self.strategy_weights) + SHRINK_STRATEGY
        )
        prior = strategy + self.off_default[rows]
        found: Array = (without(self.losses) + shrink * prior) / (without(self.weights) + shrink)
        return found


def sums(table: Table, bandwidth: Bandwidth) -> Sums:
    """Return the sums of a table for one bandwidth."""
    rows, groups = len(table.loss), int(table.group.max()) + 1
    member = np.zeros((rows, groups))
    member[np.arange(rows), table.group] = 1.0
    lost = member * table.loss[:, None]
    first = table.frame.drop_duplicates("_situation").reset_index(drop=True)
    between = situation_distances(first, first, bandwidth.backbone)
    near = np.ones_like(between) if math.isinf(bandwidth.situation) else np.exp(-between / bandwidth.situation)
    source = pd.factorize(first["source"])[0]
    same = np.where(source[:, None] == source[None, :], 1.0, OTHER_SOURCE)
    own = {name: np.zeros((rows, groups)) for name in ("w", "l", "sw", "sl")}
    for strategy in np.unique(table.strategy):
        mine = np.flatnonzero(table.strategy == strategy)
        features = setting_features([table.frame["hparams"].iloc[row] for row in mine])
        for start in range(0, len(mine), CHUNK):
            part = mine[start : start + CHUNK]
            alike = np.exp(-setting_distances(features, slice(start, start + CHUNK)) / bandwidth.setting)
            places = np.ix_(table.situation[part], table.situation[mine])
            weights = alike * near[places] * same[places]
            own["w"][part], own["l"][part] = weights @ member[mine], weights @ lost[mine]
            own["sw"][part], own["sl"][part] = same[places] @ member[mine], same[places] @ lost[mine]
    return Sums(own["w"], own["l"], own["sw"], own["sl"], member.sum(0), lost.sum(0), _off_default(table.frame))


def _off_default(frame: pd.DataFrame) -> Array:
    """Return the points that rows are expected to lose by their learning rate alone."""
    found = np.zeros(len(frame))
    for row, (strategy, own) in enumerate(zip(frame["strategy"], frame["hparams"], strict=True)):
        default = DEFAULTS.get(plain_name(str(strategy)))
        wanted = default.settings.get("lr") if default else None
        rate = next((own[name] for name in RATES if name in own), None)
        if isinstance(wanted, float) and isinstance(rate, int | float) and rate > 0:
            found[row] = OFF_DEFAULT * abs(math.log10(rate / wanted))
    return found


def plain_name(strategy: str) -> str:
    """Return a strategy's name as ours has it, where it is one of ours under another."""
    name = strategy.lower().replace("-", "_").replace(" ", "_")
    return ALIASES.get(name, name)


def names(frame: pd.DataFrame) -> pd.Series:
    """Return what a candidate is called: strategy and hyperparameters."""
    return frame["strategy"].astype(str) + " " + pd.Series(names_of(frame["hparams"]), index=frame.index)
