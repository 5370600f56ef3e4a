"""Rows that cannot be right, or stand alone: found before anything is learned from them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sweeper.spec import Status, TrialResult

FAR = 6.0
"""Robust standard deviations off the other seeds."""
LEAST = 0.1
"""And at least so much of the score: less moves no mean by a rank that matters."""
ROUNDING = 1e-3


@dataclass(frozen=True)
class Doubt:
    """Why a row is doubted, and whether it is left out; what may be true is only told."""

    reason: str
    left_out: bool


def doubts(results: Iterable[TrialResult]) -> dict[str, Doubt]:
    """Return the complete rows that are doubted, by id.

    A score that the rest of its row contradicts is left out. One far off the other seeds of its setting is told and
    stays: training does fail on some seeds, or succeed on one alone.
    """
    found: dict[str, Doubt] = {}
    seeds: dict[str, list[TrialResult]] = {}
    for row in results:
        if row.status is not Status.COMPLETE:
            continue
        reason = _contradicts_itself(row)
        if reason:
            found[row.trial_id] = Doubt(reason, True)
            continue
        spec = row.spec.to_dict()
        del spec["seed"]
        seeds.setdefault(json.dumps(spec, sort_keys=True), []).append(row)
    for name in ("valid_score", "test_score"):
        for reason_of in (_apart(rows, name) for rows in seeds.values() if len(rows) > 2):
            for trial, doubt in reason_of.items():
                found.setdefault(trial, doubt)
    return found


def _contradicts_itself(row: TrialResult) -> str:
    metrics = row.metrics
    last = row.curve[-1].get("valid_score") if row.curve else None
    if last is not None and abs(last - metrics["valid_score"]) > ROUNDING:
        return f"its valid score is {metrics['valid_score']:.3f}, the last of its curve {last:.3f}"
    wrong, rows = metrics.get("wrong_by_class"), row.context.get("n_test")
    if wrong is not None and rows and row.context.get("metric") == "accuracy":
        right = 1 - sum(wrong) / rows
        if abs(right - metrics["test_score"]) > ROUNDING:
            return f"its test score is {metrics['test_score']:.3f}, by its wrong answers {right:.3f}"
    return ""


def _apart(rows: list[TrialResult], name: str) -> Mapping[str, Doubt]:
    """Return the rows of one setting whose score is far from that of the other seeds."""
    middle = statistics.median(row.metrics[name] for row in rows)
    spread = 1.4826 * statistics.median(abs(row.metrics[name] - middle) for row in rows)
    limit = max(FAR * spread, LEAST)
    found = {}
    for row in rows:
        off = row.metrics[name] - middle
        if abs(off) > limit:
            where = "above" if off > 0 else "below"
            reason = f"its {name.replace('_', ' ')} is {100 * abs(off):.1f} points {where} the middle of its seeds"
            found[row.trial_id] = Doubt(reason, False)
    return found
