"""Learn the correction of the formulas in `advisor.costs` from measured rows, and say how far they are off.

python -m advisor.fit_costs results/shipped              writes advisor/costs.json
python -m advisor.fit_costs --evaluate results/shipped   leaves each method out, then each model
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from advisor.costs import CONTEXT, PACKAGED, UPDATE, time_parts, worse
from advisor.devices import DEVICES
from advisor.measured import Row, read
from sweeper.results import read_store
from sweeper.spec import Status

Array = np.ndarray[Any, np.dtype[np.float64]]
LEARNED = ("activations", "checkpoints", "adapters", "logits")
TIME = ("arithmetic", "memory", "launch", "attached")
GB = 1e9
LEAST_FLOPS = 1e11
"""Shorter trials are mostly start-up."""
BUDGETS = (16, 24, 40, 48, 80)
PULL = 0.02
"""Weight of the formulas as they stand, against that of a method's rows."""
COVERED = 0.9
SOURCES = {"peft": "peft's rows (L40S)", "own": "own rows (H200)"}


@dataclass(frozen=True)
class Formula:
    """Rows as sums of parts with unknown factors, all of them relative to what was measured.

    Attributes:
        parts: ``(rows, parts)``.
        fixed: ``(rows,)``, what is taken as it is.
        counted: ``(rows,)``, that of it which is certain: intervals are of the rest.
        predict: Factors to predictions, relative to what was measured; ``parts`` and ``fixed`` are its tangent.
        groups: ``(rows,)``, what is left out together.
        weights: ``(rows,)``; a method of a model weighs 1, however many rows it has.
        known: ``(rows,)``, whether the method has formulas of its own; intervals are made of its kind alone.
        prior: The factors before any row was seen.
        whole: Whether intervals hold all rows of 9 in 10 groups, or 9 in 10 rows.
    """

    parts: Array
    fixed: Array
    counted: Array
    predict: Callable[[Array], Array]
    groups: np.ndarray[Any, Any]
    weights: Array
    known: np.ndarray[Any, Any]
    prior: Array
    whole: bool

    def factors(self, keep: np.ndarray[Any, Any]) -> Array:
        """Return factors of at least 0 with the least squared relative errors on some rows, pulled to the prior."""
        parts, weights = self.parts[keep], self.weights[keep]
        pull = np.diag(PULL * weights @ parts**2 + 1e-9)
        square = parts.T @ (weights[:, None] * parts) + pull
        right = parts.T @ (weights * (1 - self.fixed[keep])) + pull @ self.prior
        factors = self.prior.copy()
        for _ in range(1_000):  # coordinate descent, each coordinate solved exactly
            before = factors.copy()
            for k in range(len(factors)):
                rest = right[k] - square[k] @ factors + square[k, k] * factors[k]
                factors[k] = max(0.0, rest / square[k, k])
            if np.abs(factors - before).max() < 1e-9:
                break
        return factors

    def ratios(self, factors: Array) -> Array:
        """Return measured over predicted of all rows, of what is not certain."""
        found: Array = (1 - self.counted) / np.maximum(self.predict(factors) - self.counted, 1e-9)
        return found

    def left_out(self, keep: np.ndarray[Any, Any]) -> Array:
        """Return the ratios of some rows, each group left out in turn."""
        ratios = np.full(len(keep), np.nan)
        for group in np.unique(self.groups[keep]):
            own = keep & (self.groups == group)
            ratios[own] = self.ratios(self.factors(keep & ~own))[own]
        return ratios

    def intervals(self, ratios: Array, keep: np.ndarray[Any, Any]) -> dict[str, tuple[float, float]]:
        """Return the range of 9 in 10 ratios (conformal over groups, arXiv 1809.07441)."""
        found = {}
        for name, kind in (("known", keep & self.known), ("others", keep & ~self.known)):
            groups = [ratios[kind & (self.groups == group)] for group in np.unique(self.groups[kind])]
            if not groups:
                found[name] = (0.0, float("inf"))
                continue
            each = groups if self.whole else [np.array([own]) for own in ratios[kind]]
            at = max(0, int((1 - COVERED) / 2 * (len(each) + 1)) - 1)
            lows, highs = sorted(own.min() for own in each), sorted(own.max() for own in each)
            found[name] = (float(lows[at]), float(highs[-1 - at]))
        return found


def memory_of(rows: Sequence[Row], group: str = "method") -> Formula:
    """Return the memory of rows, the device's context included."""
    measured = np.array([row.memory + CONTEXT for row in rows])
    every = [row.costs.parts for row in rows]
    learned = np.array([[own[name] for name in LEARNED] for own in every]) / measured[:, None]
    taken, update, counted = (
        np.array([sum(own[name] for name in names) for own in every]) / measured
        for names in (("formed", "casts", "head"), UPDATE, ("weights", "optimizer"))
    )

    def predict(factors: Array) -> Array:
        found: Array = worse(learned @ factors[:-1] + taken, update) + counted + (CONTEXT + GB * factors[-1]) / measured
        return found

    prior = np.array([*(1.0 for _ in LEARNED), 0.0])
    backward = learned.sum(1) + taken
    slope = (backward / np.maximum(worse(backward, update), 1e-12)) ** 2
    parts = np.column_stack([learned * slope[:, None], GB / measured])
    fixed = predict(prior) - parts @ prior
    return _formula(rows, parts, fixed, counted, predict, prior, group, whole=True)


def time_of(rows: Sequence[Row], group: str = "method") -> Formula:
    """Return the seconds of a step; single runs stray far on a busy machine, and intervals are of rows."""
    measured = np.array([row.seconds for row in rows])
    beside = sorted({name for row in rows for name in row.beside})
    every = [{**time_parts(row.costs, row.device), **row.beside} for row in rows]
    parts = np.array([[own.get(name, 0.0) for name in (*TIME, *beside)] for own in every]) / measured[:, None]
    prior = np.array([2.0, 2.0, 1e-3, 1e-4, *(100.0 for _ in beside)])
    nothing = np.zeros(len(rows))
    return _formula(rows, parts, nothing, nothing, lambda factors: parts @ factors, prior, group, whole=False)


def _formula(
    rows: Sequence[Row],
    parts: Array,
    fixed: Array,
    counted: Array,
    predict: Callable[[Array], Array],
    prior: Array,
    group: str,
    whole: bool,
) -> Formula:
    pairs = [(row.model, row.method) for row in rows]
    weights = np.array([1 / pairs.count(pair) for pair in pairs])
    groups = np.array([getattr(row, group) for row in rows])
    known = np.array([row.costs.known for row in rows])
    return Formula(parts, fixed, counted, predict, groups, weights, known, prior, whole)


def fit(folder: Path) -> dict[str, Any]:
    """Return what `advisor.costs` reads."""
    rows = read(folder)
    found: dict[str, Any] = {}
    for name, table, names in (("memory", memory_of(rows), (*LEARNED, "runtime")), ("time", time_of(rows), TIME)):
        every = np.ones(len(rows), bool)
        ranges = table.intervals(table.left_out(every), every)
        factors = dict(zip(names, (round(float(own), 6) for own in table.factors(every)), strict=False))
        if name == "memory":
            factors["runtime"] *= GB
        found[name] = {"coefficients": factors, **_rounded(ranges), "rows": len(rows)}
    return {**found, "cpu": _cpu(folder)}


def _cpu(folder: Path) -> dict[str, Any]:
    """Return the same of trials on two cores, whose FLOPs were counted: seconds over seconds at the device's best."""
    ratios: dict[str, list[float]] = {}
    for row in read_store(folder).results:
        flops, time = row.metrics.get("train_flops"), row.metrics.get("train_seconds")
        if row.status is not Status.COMPLETE or row.context.get("device") != "cpu" or not flops or not time:
            continue
        if flops > LEAST_FLOPS:
            ratios.setdefault(row.spec.strategy, []).append(time * DEVICES["cpu"].float_flops / flops)
    middle = float(np.median([np.median(own) for own in ratios.values()]))
    each = np.concatenate([np.array(own) for own in ratios.values()]) / middle
    low, high = np.quantile(each, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    ranges = dict.fromkeys(("known", "others"), (float(low), float(high)))
    return {"coefficients": {"arithmetic": round(middle, 3)}, **_rounded(ranges), "rows": len(each)}


def _rounded(ranges: Mapping[str, tuple[float, float]]) -> dict[str, list[float]]:
    return {name: [round(low, 3), round(high, 3)] for name, (low, high) in ranges.items()}


@dataclass(frozen=True)
class Judged:
    """Predictions of rows that were left out with all of their group, intervals and all.

    Attributes:
        predicted: In the unit of what was measured; ``high`` is the upper end of the interval.
        inside: Whether the measurement lies in the interval.
    """

    measured: Array
    predicted: Array
    high: Array
    inside: np.ndarray[Any, Any]


def judge(table: Formula, measured: Array) -> Judged:
    """Leave each group out in turn."""
    predicted, low, high = (np.empty(len(measured)) for _ in range(3))
    for group in np.unique(table.groups):
        own = table.groups == group
        predicted[own] = table.predict(table.factors(~own))[own]
        ranges = table.intervals(table.left_out(~own), ~own)
        for name, kind in (("known", own & table.known), ("others", own & ~table.known)):
            low[kind], high[kind] = ranges[name]
    low, high = (table.counted + end * (predicted - table.counted) for end in (low, high))
    return Judged(measured, predicted * measured, high * measured, (low <= 1) & (high >= 1))


def evaluate(folder: Path, plain: bool = False) -> list[dict[str, Any]]:
    """Return how far off memory and time are: of each source and what was left out, a dict of figures.

    ``plain`` is as in `advisor.measured.read`.
    """
    rows = read(folder, plain)
    found = []
    memory = np.array([row.memory for row in rows])
    for group in ("method", "model"):
        judged = judge(memory_of(rows, group), memory + CONTEXT)
        times = judge(time_of(rows, group), np.array([row.seconds for row in rows]))
        for source in SOURCES:
            own = np.array([row.source == source for row in rows])
            # Errors are counted on the allocator's own bytes: the context would make them look smaller.
            error = np.abs(judged.predicted - judged.measured)[own] / memory[own]
            late = (np.abs(times.predicted - times.measured) / times.measured)[own]
            fits = {size: judged.high[own] <= size * GB for size in BUDGETS}
            found.append(
                {
                    "source": source,
                    "left_out": group,
                    "rows": int(own.sum()),
                    "memory_median": float(np.median(error)),
                    "memory_p95": float(np.quantile(error, 0.95)),
                    "covered": float(judged.inside[own].mean()),
                    "fits": {size: int(fit.sum()) for size, fit in fits.items()},
                    "would_fit": {size: int((judged.measured[own] <= size * GB).sum()) for size in BUDGETS},
                    "exceed": {size: int((judged.measured[own][fit] > size * GB).sum()) for size, fit in fits.items()},
                    "time_median": float(np.median(late)),
                    "time_p95": float(np.quantile(late, 0.95)),
                }
            )
    return found


def _shown(found: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Yield the figures as lines."""
    for own in found:
        yield f"{SOURCES[own['source']]}, {own['left_out']} left out, {own['rows']} rows"
        median, tail, covered = (100 * own[name] for name in ("memory_median", "memory_p95", "covered"))
        yield f"  memory off by {median:.1f} % (median), {tail:.1f} % (p95); {covered:.0f} % in the 90 % interval"
        each = (f"{own['exceed'][size]} of {own['fits'][size]} at {size} GB" for size in BUDGETS)
        yield f"  called fits and exceed: {', '.join(each)}"
        could = (f"{own['would_fit'][size]} at {size} GB" for size in BUDGETS)
        yield f"  would have fitted: {', '.join(could)}"
        yield f"  time off by {100 * own['time_median']:.0f} % (median), {100 * own['time_p95']:.0f} % (p95)"


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--evaluate", "only", is_flag=True, help="Write nothing: leave methods and models out, and say how far off."
)
@click.option("--plain", is_flag=True, help="With --evaluate: take what has no rule of its own for LoRA.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=PACKAGED, help="File to write.")
def main(folder: Path, only: bool, plain: bool, output: Path) -> None:
    """Learn the costs' correction from the tables of a results store."""
    if only:
        for line in _shown(evaluate(folder, plain)):
            click.echo(line)
        return
    output.write_text(json.dumps(fit(folder), indent=1) + "\n", encoding="utf-8")
    click.echo(f"Fitted memory and time -> {output}", err=True)


if __name__ == "__main__":
    main()
