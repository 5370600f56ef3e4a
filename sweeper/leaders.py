"""The best setting of each strategy so far, kept while rows come in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from sweeper.spec import TrialResult


@dataclass(frozen=True)
class Leader:
    """The best setting of a strategy so far, by its mean score on validation.

    Attributes:
        settings: Its hyperparameters and rate, in words.
        seeds: How many trials the mean is of.
        test: Mean score on test.
        curve: Step and score on validation, of one of them.
    """

    model: str
    task: str
    n_train: int
    strategy: str
    settings: str
    lr: float
    seeds: int
    valid: float
    test: float
    metric: str
    trainable_params: float
    curve: list[tuple[float, float]]


class Leaders:
    """Keeps who leads while rows come in."""

    def __init__(self, rows: Iterable[TrialResult] = ()) -> None:
        self.rows: dict[tuple[object, ...], dict[str, list[TrialResult]]] = {}
        for row in rows:
            self.see(row)

    def see(self, row: TrialResult) -> None:
        """Take a row in."""
        if "valid_score" not in row.metrics or "test_score" not in row.metrics:
            return
        spec = row.spec
        setting = json.dumps([spec.hparams, asdict(spec.train)], sort_keys=True)
        place = (spec.model, spec.task, spec.n_train, spec.train.steps, spec.strategy)
        self.rows.setdefault(place, {}).setdefault(setting, []).append(row)

    def best(self) -> list[Leader]:
        """Return each strategy's best setting, model by model and task by task, the best first."""
        found = [_leader(settings) for settings in self.rows.values()]
        return sorted(found, key=lambda one: (one.model, one.task, one.n_train, -one.valid))


def _leader(settings: Mapping[str, list[TrialResult]]) -> Leader:
    trials = max(settings.values(), key=lambda own: _mean(own, "valid_score"))
    spec = trials[0].spec
    others = [rows[0].spec.hparams for rows in settings.values()]
    telling = [name for name in spec.hparams if len({str(other.get(name)) for other in others}) > 1]
    return Leader(
        spec.model,
        spec.task,
        spec.n_train,
        spec.strategy,
        ", ".join(f"{name}={spec.hparams[name]}" for name in telling),
        spec.train.lr,
        len(trials),
        _mean(trials, "valid_score"),
        _mean(trials, "test_score"),
        str(trials[0].context.get("metric", "score")),
        _mean(trials, "trainable_params"),
        [(point["step"], point["valid_score"]) for point in trials[0].curve],
    )


def _mean(rows: Sequence[TrialResult], metric: str) -> float:
    return sum(row.metrics[metric] for row in rows) / len(rows)
