"""The figures of a report: what rows say, as charts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sweeper.chart import Axis, Chart, Mark, Series
from sweeper.contest import Contest, Standing
from sweeper.metrics import METRICS
from sweeper.sensitivity import Profile
from sweeper.summary import Line
from sweeper.table import named, short

MOST_LINES = 8  # in one picture: more cannot be told apart

Styles = Mapping[str, int]
"""Strategy -> number of its colour and shape, the same throughout a report."""


@dataclass(frozen=True)
class Cost:
    """A number that a score is held against: how it is called, written and scaled."""

    name: str
    form: Callable[[float], str]
    scale: float = 1.0
    log: bool = True


def count(value: float) -> str:
    """Return a number of parameters as people say it: 848, 13.6k, 22.7M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """Return a time as people say it: 0.16 s, 19 s, 5.2 min."""
    return f"{value:.2g} s" if value < 9.95 else f"{value:.0f} s" if value < 120 else f"{value / 60:.3g} min"


def megabytes(value: float) -> str:
    """Return a size that is given in MB: 0.01 MB, 542 MB, 2.3 GB."""
    return f"{value / 1024:.3g} GB" if value >= 10_000 else f"{value:,.0f} MB" if value >= 9.95 else f"{value:.2g} MB"


COSTS: Mapping[str, Cost] = {
    "trainable_params": Cost("trainable parameters", count),
    "train_seconds": Cost("seconds of training", seconds),
    "peak_memory_bytes": Cost("peak memory", megabytes, 2**-20),
    "forgetting": Cost("points forgotten", "{:.3g}".format, 100.0, log=False),
}


def setting(line: Line, contest: Contest) -> str:
    """Return strategy and what tells the line from others of its strategy."""
    siblings = [other.hparams for other in contest.lines if other.strategy == line.strategy]
    tells = named(line.hparams, siblings) if len(siblings) > 1 else ""
    return f"{line.strategy} {tells}".strip()


def pareto(contest: Contest, cost: str, styles: Styles) -> Chart | None:
    """Return test score against a cost, its Pareto front marked; ``None`` where the cost was not measured."""
    known = [line for line in contest.lines if line.spread(cost)]
    if not known:
        return None
    own = COSTS[cost]
    where = {id(line): (own.scale * _mean(line, cost), 100 * line.mean("test_score")) for line in known}
    best = front([where[id(line)] for line in known], METRICS[cost].better == "lower")
    series = []
    for strategy in dict.fromkeys(line.strategy for line in known):
        mine = sorted((line for line in known if line.strategy == strategy), key=lambda line: where[id(line)])
        marks = []
        for line in mine:
            x, y = where[id(line)]
            spread = 100 * _std(line, "test_score")
            says = f"{setting(line, contest)}: {y:.1f} points, {own.form(x)}"
            marks.append(Mark(x, y, says, spread, strong=(x, y) in best))
        series.append(Series(strategy, styles[strategy], tuple(marks)))
    log = own.log and all(x > 0 for x, _ in where.values())
    names = [
        f"{setting(line, contest)} ({own.form(where[id(line)][0])}, {where[id(line)][1]:.1f})"
        for line in known
        if where[id(line)] in best
    ]
    return Chart(
        cost,
        f"Test score against {own.name}",
        Axis(own.name, own.form, log),
        Axis("test score, points", _points),
        tuple(series),
        f"On the Pareto front: {'; '.join(names)}.",
        tuple(sorted(best)),
        _source(contest),
        "left" if METRICS[cost].better == "lower" else "right",
    )


def front(points: Sequence[tuple[float, float]], lower_is_better: bool = True) -> set[tuple[float, float]]:
    """Return the points that no other beats in one of cost and score without being worse in the other."""
    side = 1 if lower_is_better else -1
    kept: set[tuple[float, float]] = set()
    best = float("-inf")
    for x, y in sorted(set(points), key=lambda point: (side * point[0], -point[1])):
        if y > best:
            kept.add((x, y))
            best = y
    return kept


def curves(contest: Contest, styles: Styles, against: Literal["step", "seconds"] = "step") -> Chart | None:
    """Return the valid score over steps or over seconds, mean over seeds, of each strategy's best setting."""
    series = []
    for strategy, line in [*contest.best_of().items()][:MOST_LINES]:
        at: dict[float, list[Mapping[str, float]]] = {}
        for trial in line.trials:
            for point in trial.curve:
                if {"valid_score", "step", "seconds"} <= point.keys():
                    at.setdefault(point["step"], []).append(point)
        whole = [own for _, own in sorted(at.items()) if len(own) == len(line.trials)]
        places = [
            (statistics.fmean(point[against] for point in own), 100 * statistics.fmean(p["valid_score"] for p in own))
            for own in whole
        ]
        marks = tuple(
            Mark(x, y, f"{strategy}: {y:.1f} points after {seconds(x) if against == 'seconds' else f'{x:g} steps'}")
            for x, y in places
        )
        if len(marks) > 1:
            series.append(Series(strategy, styles[strategy], marks, joined=True))
    if not series:
        return None
    ends = "; ".join(f"{own.name} {own.marks[0].y:.1f} to {own.marks[-1].y:.1f}" for own in series)
    in_time = against == "seconds"
    return Chart(
        "learning_seconds" if in_time else "learning_curves",
        f"Validation score over {'seconds' if in_time else 'steps'}",
        Axis("seconds of training", seconds) if in_time else Axis("optimizer steps", "{:g}".format),
        Axis("valid score, points", _points),
        tuple(series),
        f"From the first evaluation to the last: {ends}.",
        better="left" if in_time else None,
    )


def ranks(contest: Contest, styles: Styles) -> Chart | None:
    """Return the test score over the rank, for the strategies that have several."""
    series = []
    for strategy in dict.fromkeys(line.strategy for line in contest.lines):
        best: dict[int, Line] = {}
        for line in contest.lines:
            rank = line.hparams.get("rank")
            if line.strategy == strategy and isinstance(rank, int) and rank > 0:
                best.setdefault(rank, line)
        marks = []
        for rank, line in sorted(best.items()):
            test = line.spread("test_score")
            if test:
                says = f"{strategy}, rank {rank}: {100 * test.mean:.1f} points"
                marks.append(Mark(rank, 100 * test.mean, says, 100 * (test.std or 0.0)))
        if len(marks) > 1:
            series.append(Series(strategy, styles[strategy], tuple(marks), joined=True))
    if not series:
        return None
    said = "; ".join(f"{own.name}: {', '.join(f'{m.x:g} gives {m.y:.1f}' for m in own.marks)}" for own in series)
    return Chart(
        "rank",
        "Test score over the rank",
        Axis("rank", "{:g}".format, log=True, at=tuple(sorted({mark.x for own in series for mark in own.marks}))),
        Axis("test score, points", _points),
        tuple(series),
        f"{said}.",
    )


def rates(contest: Contest, found: Sequence[Profile], styles: Styles) -> Chart | None:
    """Return the valid score over the learning rate, for the strategies that were tried at several."""
    order = [*contest.best_of()]
    mine = [own for own in found if own.name == "lr" and own.strategy in order]
    mine.sort(key=lambda own: order.index(own.strategy))
    series = []
    for own in mine[:MOST_LINES]:
        marks = tuple(
            Mark(lr, 100 * s.mean, f"{own.strategy} at {lr:g}: {100 * s.mean:.1f} points", 100 * (s.std or 0.0))
            for lr, s in own.points
        )
        series.append(Series(own.strategy, styles[own.strategy], marks, joined=True))
    if not series:
        return None
    said = "; ".join(f"{own.strategy} is best at {short(own.best)}" for own in mine[:MOST_LINES])
    return Chart(
        "learning_rate",
        "Validation score over the learning rate",
        Axis("learning rate", "{:g}".format, log=True),
        Axis("valid score, points", _points),
        tuple(series),
        f"{said}.",
    )


def overview(found: Sequence[Standing], styles: Styles) -> Chart:
    """Return what strategies lose on average against the share of the parameters that they train."""

    def share(line: Line) -> float:
        return 100 * line.mean("trainable_params") / line.mean("total_params")

    where = {own.strategy: (own.median(share), 100 * own.mean_lost) for own in found}
    best = {(x, -y) for x, y in front([(x, -y) for x, y in where.values()])}  # less is better both ways
    series = tuple(
        Series(
            name,
            styles[name],
            (Mark(x, y, f"{name}: {y:.1f} points lost, trains {x:.2g} %", strong=(x, y) in best),),
        )
        for name, (x, y) in where.items()
    )
    return Chart(
        "overview",
        "Points lost to the best, against what is trained",
        Axis("share of the parameters that train, per cent", "{:g}".format, log=all(x > 0 for x, _ in where.values())),
        Axis("points lost on average", _points),
        series,
        "; ".join(f"{name} loses {y:.1f} and trains {x:.2g} per cent" for name, (x, y) in where.items()) + ".",
        tuple(sorted(best)),
        better="left",
    )


def all_figures(contest: Contest, found: Sequence[Profile], styles: Styles) -> list[Chart]:
    """Return the figures of one situation that its rows allow."""
    made = [pareto(contest, cost, styles) for cost in COSTS]
    made += [ranks(contest, styles), rates(contest, found, styles)]
    made += [curves(contest, styles), curves(contest, styles, "seconds")]
    return [chart for chart in made if chart is not None]


def _mean(line: Line, metric: str) -> float:
    """Return a mean over the seeds that have the number; some older rows lack some."""
    spread = line.spread(metric)
    return spread.mean if spread else math.nan


def _std(line: Line, metric: str) -> float:
    """Return how far a number spreads over seeds; nothing for one seed."""
    spread = line.spread(metric)
    return (spread.std or 0.0) if spread else 0.0


def _source(contest: Contest) -> tuple[float, str] | None:
    """Return the source model's score before training, as a level."""
    spread = contest.winner.spread("untouched_test_score")
    return (100 * spread.mean, "before training") if spread else None


def _points(value: float) -> str:
    return f"{value:g}"
