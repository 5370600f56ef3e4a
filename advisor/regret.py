"""How good the advice is on tasks that it has not seen: the figures that ship, as ``advisor evaluate`` wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.disk import read_small

PACKAGED = Path(__file__).with_name("regret.json")
COMMAND = "advisor evaluate --results results/shipped --format json > advisor/regret.json"
"""What writes it."""
MOST_BYTES = 2**20
OWN = "own"


@dataclass(frozen=True)
class Regret:
    """Points lost to the best of each situation, on average, each task left out in turn.

    Attributes:
        source: "all", "own" trials, or where figures of others are from.
        advice, low, high: Of the advice, with its 95 % interval.
        single_best: Of what did best on all other tasks.
        rules, chance: Of the decision table, and of a candidate drawn at random.
        best_of_three: Of the best among the first three.
        covered: Share of the 90 % intervals that hold.
    """

    source: str
    advice: float
    low: float
    high: float
    single_best: float
    rules: float
    chance: float
    best_of_three: float
    covered: float
    situations: int
    groups: int


def shipped(joint: bool = False) -> list[Regret]:
    """Return the figures of strategies, or of strategies with settings (``joint``): of all, then by source."""
    content = json.loads(read_small(PACKAGED, MOST_BYTES))["joint" if joint else "strategy_only"]
    return [_regret(name, own) for name, own in {"all": content["total"], **content["sources"]}.items()]


def _regret(source: str, own: Mapping[str, Any]) -> Regret:
    low, high = own["regret_mean_interval"]
    return Regret(
        source=source,
        advice=own["regret_mean"],
        low=low,
        high=high,
        single_best=own["regret_sbs"],
        rules=own["regret_rule"],
        chance=own["regret_random"],
        best_of_three=own["regret_top3"],
        covered=own["coverage_90"],
        situations=own["situations"],
        groups=own["groups"],
    )
