"""Class by class: precision, recall, F1 and confusions of one trial of each strategy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from sweeper.spec import TrialResult
from sweeper.summary import Line
from sweeper.table import named, short

Confusion = Sequence[Sequence[int]]
"""Test rows of each true class (first index) that were given each class (second index)."""


@dataclass(frozen=True)
class ClassScores:
    """How well one class is told from the others; a share of nothing counts as 0."""

    precision: float
    recall: float
    f1: float
    rows: int


def class_scores(confusion: Confusion) -> list[ClassScores]:
    """Return the scores of each class."""
    given = [sum(column) for column in zip(*confusion, strict=True)]
    found = []
    for k, own in enumerate(confusion):
        right, rows = own[k], sum(own)
        both = given[k] + rows
        found.append(
            ClassScores(
                right / given[k] if given[k] else 0.0,
                right / rows if rows else 0.0,
                2 * right / both if both else 0.0,
                rows,
            )
        )
    return found


def typical_trials(lines: Iterable[Line]) -> list[TrialResult]:
    """Return one trial of each strategy in each situation.

    Settings are compared as `summarise` compares rates: on the mean valid score, among those that are
    complete on the most seeds. Of the best setting's seeds it is the one with the median valid score (the
    lower of two), so that what is shown is typical and not lucky.
    """
    best: dict[tuple[Any, ...], Line] = {}
    for line in lines:
        key = (*line.situation, line.strategy)
        if key not in best or _rank(line) > _rank(best[key]):
            best[key] = line
    return [_median(line) for line in best.values()]


def _rank(line: Line) -> tuple[int, float]:
    return len(line.trials), line.mean("valid_score")


def _median(line: Line) -> TrialResult:
    by_score = sorted(line.trials, key=lambda trial: trial.metrics["valid_score"])
    return by_score[(len(by_score) - 1) // 2]


def print_per_class(trials: Iterable[TrialResult], console: Console) -> None:
    """Print a table for each trial: scores on the left, confusions on the right where there is room."""
    for trial in trials:
        spec = trial.spec
        console.print(
            f"{spec.strategy} on {spec.model}, {spec.task}, {spec.n_train} training rows, {spec.train.steps} steps: "
            f"{', '.join([*filter(None, [named(spec.hparams, [])]), f'lr={short(spec.train.lr)}'])}, "
            f"seed={spec.seed} (trial {trial.trial_id})",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        confusion = trial.metrics.get("confusion")
        if confusion is None:
            console.print(" no confusion matrix stored\n", highlight=False)
            continue
        labels = trial.context.get("labels", ())
        table = _table(confusion, labels, matrix=True)
        limitless = console.options.update_width(10_000)
        if Measurement.get(console, limitless, table).maximum > console.width:
            table = _table(confusion, labels, matrix=False)
            console.print(
                " confusion matrix left out for want of width; --format json has it", highlight=False, soft_wrap=True
            )
        console.print(table)
        console.print()
    console.print(
        "Test rows. Right of the bar: how many rows of the class were given each class. For each strategy the setting "
        "that is best on\nvalid over the seeds, and of its seeds the one with the median valid score.",
        highlight=False,
    )


def _table(confusion: Confusion, labels: Sequence[str], matrix: bool) -> Table:
    table = Table(box=None)
    for heading in ("class", "precision", "recall", "F1", "rows"):
        table.add_column(heading, justify="right", no_wrap=True)
    if matrix:
        for heading in ("|", *map(str, range(len(confusion)))):
            table.add_column(heading, justify="right", no_wrap=True)
    for k, (scores, own) in enumerate(zip(class_scores(confusion), confusion, strict=True)):
        cells = [*(f"{100 * value:.1f}" for value in (scores.precision, scores.recall, scores.f1)), str(scores.rows)]
        name = escape(f"{k} {labels[k]}") if labels else str(k)
        table.add_row(name, *cells, *(["|", *(str(rows) if rows else "." for rows in own)] if matrix else []))
    return table


def as_json(trials: Iterable[TrialResult]) -> list[dict[str, Any]]:
    """Return trials as plain JSON values; without a stored matrix ``confusion`` and ``classes`` are null."""
    found = []
    for trial in trials:
        confusion = trial.metrics.get("confusion")
        found.append(
            {
                "trial_id": trial.trial_id,
                **trial.spec.to_dict(),
                "valid_score": trial.metrics["valid_score"],
                "test_score": trial.metrics["test_score"],
                "labels": trial.context.get("labels"),
                "classes": None if confusion is None else [asdict(scores) for scores in class_scores(confusion)],
                "confusion": confusion,
            }
        )
    return found
