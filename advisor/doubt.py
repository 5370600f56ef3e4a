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
        for trial, doubt in _apart([rows for rows in seeds.values() if len(rows) > 2], name).items():
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


def _apart(settings: list[list[TrialResult]], name: str) -> Mapping[str, Doubt]:
    """Return the rows whose score is far from that of the other seeds, seen from how far seeds are apart as a rule.

    The rule is the situation's: one setting with two odd seeds of five has none of its own.
    """
    off: dict[tuple[str, str, int], list[list[tuple[TrialResult, float]]]] = {}
    for rows in settings:
        spec, middle = rows[0].spec, statistics.median(row.metrics[name] for row in rows)
        situation = (spec.model, spec.task, spec.n_train)
        off.setdefault(situation, []).append([(row, row.metrics[name] - middle) for row in rows])
    found = {}
    for own in off.values():
        spreads = [1.4826 * statistics.median(abs(gap) for _, gap in rows) for rows in own]
        limit = max(FAR * statistics.median(spreads), LEAST)
        for row, gap in (pair for rows in own for pair in rows):
            if abs(gap) > limit:
                where = "above" if gap > 0 else "below"
                reason = f"its {name.replace('_', ' ')} is {100 * abs(gap):.1f} points {where} the middle of its seeds"
                found[row.trial_id] = Doubt(reason, False)
    return found
