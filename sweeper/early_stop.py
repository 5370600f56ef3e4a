"""Which trials stop before their end, because others of the same situation do better after as many steps."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from sweeper.spec import TrialResult, TrialSpec

RULES = {
    "median": "a trial stops whose best score lies below the median of the others' means so far "
    "(Golovin et al. 2017, Google Vizier, section 3.2)",
    "asha": "after a sixth of the steps and after half of them the best third goes on "
    "(asynchronous successive halving: Li et al. 2018, arXiv 1810.05934)",
}
ETA, RUNGS = 3, (1 / 6, 1 / 2)
LEAST_OTHERS, GRACE = 4, 1 / 4
"""The median of fewer says little; before this share of the steps the rate is still at its height."""

Situation = tuple[str, str, int, int]


class EarlyStop:
    """Hears the scores of all trials of a sweep at the points of their curves, and says which of them stop.

    Trials are compared within a model, a task, its rows and a budget of steps, whatever their strategies.

    Args:
        rule: In `RULES`.
        rows: Of trials that ran before: those compared with hear of them.
    """

    def __init__(self, rule: str, rows: Iterable[TrialResult] = ()) -> None:
        self.rule = rule
        self.curves: dict[Situation, dict[str, dict[int, float]]] = {}
        for row in rows:
            own = self.curves.setdefault(_situation(row.spec), {}).setdefault(row.trial_id, {})
            own.update({int(point["step"]): point["valid_score"] for point in row.curve})

    def judge(self, step: int, trials: Sequence[TrialSpec], scores: Sequence[float]) -> Mapping[str, str]:
        """Return the ids of those that stop, and why in one line."""
        for trial, score in zip(trials, scores, strict=True):
            self.curves.setdefault(_situation(trial), {}).setdefault(trial.trial_id, {})[step] = score
        found = ((trial, self._reason(trial, step, score)) for trial, score in zip(trials, scores, strict=True))
        return {trial.trial_id: f"stopped at step {step} of {trial.train.steps}: {why}" for trial, why in found if why}

    def _reason(self, trial: TrialSpec, step: int, score: float) -> str | None:
        curves = self.curves[_situation(trial)]
        if self.rule == "asha":
            import numpy as np  # the command line names the rules

            if step not in {round(share * trial.train.steps) for share in RUNGS}:
                return None
            reached = [curve[step] for curve in curves.values() if step in curve]
            bound = float(np.quantile(reached, 1 - 1 / ETA))
            below = f"the bound of the best third of {len(reached)} there, {bound:.3f}"
            return f"its {score:.3f} on validation is below {below}" if score < bound else None
        others = [
            statistics.fmean(value for at, value in curve.items() if at <= step)
            for name, curve in curves.items()
            if step in curve and name != trial.trial_id
        ]
        if len(others) < LEAST_OTHERS or step < GRACE * trial.train.steps:
            return None
        best = max(value for at, value in curves[trial.trial_id].items() if at <= step)
        median = statistics.median(others)
        below = f"the median of {len(others)} others, {median:.3f}"
        return f"its best {best:.3f} on validation is below {below}" if best < median else None


def _situation(trial: TrialSpec) -> Situation:
    return trial.model, trial.task, trial.n_train, trial.train.steps
