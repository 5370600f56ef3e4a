"""How good the advice is on what it has not seen: whole groups (tasks, as a rule) left out, one after the other.

Everything that is chosen for a group (variances, whether to trust them, widths of intervals) is chosen without it, and
without the other groups of its fold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from advisor.gaussian import Process, learned_variances, targets, thinned
from advisor.likeness import Array, Codes, Likeness, Switches, coded, plain_name, renumbered, setting_text
from advisor.rules import decide
from advisor.situation import Situation
from advisor.table import names_of, points, situations

LEAST_GROUPS = 6
"""Where fewer groups are left to learn from, nothing is chosen by leaving one out, and the single best is advised."""
FOLDS = 10
MOST_OTHERS = 300
"""Rows of other sources that are taken along."""
CHANCE = 0.05
"""As likely as this gains over the single best may come by chance for what is learned to be advised instead."""
BEST_OF = (1, 3, 5, 20, 100)
RESAMPLES = 1_000


@dataclass(frozen=True)
class Judged:
    """One situation that was left out.

    Attributes:
        losses: Points below the best of the situation, in the order in which the advice would try them.
        predicted: What was predicted of them.
        learned: Whether the order is what was learned; else the single best comes first.
        sbs, rule, random: Loss of the single best candidate of the rest, of the rules, of a random candidate.
        covered: Share of the candidates whose score lay in its 90 % interval.
    """

    source: str
    group: int
    losses: Array
    predicted: Array
    learned: bool
    sbs: float
    rule: float
    random: float
    covered: float


@dataclass(frozen=True)
class Table:
    """Candidates in situations: one row for each.

    Attributes:
        rows: The columns of `advisor.table`.
        situation, group, candidate, strategy: Numbers of each row's situation, of what is left out together, of its
            strategy with settings, and of its strategy alone.
        loss: Points below the best of the situation.
        score: In points.
        group_names: The name of each row's group.
    """

    rows: Sequence[dict[str, Any]]
    situation: Codes
    group: Codes
    candidate: Codes
    strategy: Codes
    loss: Array
    score: Array
    group_names: Sequence[str]

    @classmethod
    def of(cls, frame: pd.DataFrame, group_by: Sequence[str]) -> Table:
        """Return the table of a frame with a row for each candidate; situations with one candidate are left out.

        Raises:
            ValueError: what is to be left out together differs within a situation.
        """
        places = situations(frame)
        frame = frame[places.groupby(places).transform("size") > 1].reset_index(drop=True)
        places = situations(frame)
        group = pd.Series(["|".join(map(str, own)) for own in frame[list(group_by)].itertuples(index=False)], dtype=str)
        if len(frame) and (group.groupby(places).transform("nunique") > 1).any():
            raise ValueError(
                f"{', '.join(group_by)} differs within a situation (source, task, n_train, backbone): group by one "
                "of these"
            )
        loss = frame.groupby(places)["score"].transform("max") - frame["score"]
        rows = [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
        return cls(
            rows,
            coded(places.tolist())[1],
            coded(group.tolist())[1],
            coded([setting_text(row) for row in rows])[1],
            coded([str(row["strategy"]) for row in rows])[1],
            loss.to_numpy(float),
            frame["score"].to_numpy(float),
            group.tolist(),
        )

    def some(self, rows: Codes) -> Table:
        """Return some of the rows; groups keep their numbers, situations and candidates do not."""
        numbers = [renumbered(own[rows]) for own in (self.situation, self.candidate, self.strategy)]
        kept = [self.rows[i] for i in rows]
        situation, candidate, strategy = numbers
        names = [self.group_names[i] for i in rows]
        return Table(kept, situation, self.group[rows], candidate, strategy, self.loss[rows], self.score[rows], names)


def evaluate(
    frame: pd.DataFrame,
    group_by: Sequence[str] = ("task",),
    seed: int = 0,
    only: Sequence[str] = (),
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Return regret figures of advice on left-out groups, as JSON has them.

    Args:
        frame: As `advisor.table.read` returns it.
        group_by: Columns that say what is left out together.
        seed: Of the bootstrap.
        only: Groups that figures are of; all others are learned from all the same. All, if none is named.
        told: Is told how many sources are done, of how many; each counts once for each of the two blocks.

    Returns:
        ``strategy_only`` (each strategy at its best settings) and ``joint`` (strategy with settings), each with
        ``total`` and ``sources``. Regret is in points: per cent of the score, below the best of the situation.

    Raises:
        ValueError: a column is missing, or there are fewer than two groups with a choice.
    """
    for name in group_by:
        if name not in frame:
            raise ValueError(f"no column named {name!r} to group by. Available: {', '.join(map(str, frame.columns))}")
    frame = points(frame)
    settings = mean_over_seeds(frame)
    found: dict[str, Any] = {}
    for block, candidates, joint in (
        ("strategy_only", tuned(settings), False),
        ("joint", settings, True),
    ):
        table = Table.of(candidates, group_by)
        if not joint and not len(table.loss):  # one strategy alone
            found[block] = {"total": {"situations": 0}, "sources": {}}
            continue
        if len(np.unique(table.group)) < 2:
            raise ValueError(
                f"fewer than two groups by {', '.join(group_by)} have situations with a choice: nothing can be left "
                "out. `sweeper import` adds more, or try another --group-by"
            )
        judged, sources = [], sources_of(table)
        for number, source in enumerate(sources):
            told(number + joint * len(sources), 2 * len(sources))
            judged += leave_out(table, source, joint)
        if only:
            names = {int(number): name for number, name in zip(table.group, table.group_names, strict=True)}
            judged = [own for own in judged if names[own.group] in only]
            if not judged:
                raise ValueError(
                    f"no group named {', '.join(only)}: there are {', '.join(sorted(set(names.values())))}"
                )
        of = {name: [own for own in judged if own.source == name] for name in dict.fromkeys(j.source for j in judged)}
        found[block] = {
            "total": _figures(judged, joint, seed),
            "sources": {name: _figures(own, joint, seed) for name, own in of.items()},
        }
    return found


def mean_over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each strategy with settings in each situation."""
    keyed = frame.assign(_name=_names(frame), _situation=situations(frame))
    groups = keyed.groupby(["_situation", "_name"], sort=False)
    first = keyed.loc[groups.head(1).index].set_index(["_situation", "_name"])
    for name in ("score", "valid"):
        first[name] = groups[name].mean()
    return first.reset_index()


def tuned(settings: pd.DataFrame) -> pd.DataFrame:
    """Return each strategy at its best settings: best on validation rows, or without these on all there is."""
    judge = settings["valid"].where(settings["valid"].notna(), settings["score"])
    best = settings.assign(_judge=judge).sort_values("_judge", ascending=False, kind="stable")
    chosen = best.drop_duplicates(["_situation", "strategy"]).sort_index()
    return chosen.assign(hparams=pd.Series([{} for _ in chosen.index], index=chosen.index, dtype=object))


def _names(frame: pd.DataFrame) -> pd.Series:
    """Return what a candidate is called: strategy and hyperparameters."""
    return frame["strategy"].astype(str) + " " + pd.Series(names_of(frame["hparams"]), index=frame.index)


def sources_of(table: Table) -> list[str]:
    """Return the names of the sources."""
    return list(dict.fromkeys(str(row["source"]) for row in table.rows))


def leave_out(table: Table, source: str, joint: bool) -> list[Judged]:
    """Return how the advice does in the situations of one source, each group left out in turn."""
    names = np.array([str(row["source"]) for row in table.rows])
    strategies = np.array([plain_name(str(row["strategy"])) for row in table.rows])
    mine = np.flatnonzero(names == source)
    others = np.flatnonzero((names != source) & np.isin(strategies, strategies[mine]))
    table = table.some(np.concatenate([mine, thinned(table.situation, others, MOST_OTHERS)]))
    own = np.arange(len(table.rows)) < len(mine)
    likeness = Likeness(table.rows, joint)
    groups = np.unique(table.group[own])
    judged = []
    for fold in range(min(FOLDS, len(groups))):
        out = groups[fold::FOLDS]
        judged += _fold(table, likeness, own, out, joint)
    return judged


def _fold(table: Table, likeness: Likeness, own: Switches, out: Codes, joint: bool) -> list[Judged]:
    """Return how the advice does on some groups of a source, each left out; all of them while anything is chosen."""
    known = ~np.isin(table.group, out)
    y, units = _targets(table, own, known)
    inner = [int(g) for g in np.unique(table.group[own & known])]
    trusted = len(inner) >= LEAST_GROUPS
    variances = learned_variances(likeness, y, np.flatnonzero(known & own if trusted else known))
    process = Process(likeness, variances, y, np.arange(len(y)), table.group)
    best = Level(table, likeness)
    gains, errors = [], Errors()
    for other in inner:
        weights = process.without([*out, other])
        here = []
        for rows in situations_of(table, own, other):
            expected = weights.mean_of(rows)
            single = single_best(table, rows, own, [*out, other])[1]
            here.append(single - table.loss[rows[int(np.argmax(expected))]])
            errors.add(other, *_halves(expected, best.of(rows, own, [*out, other]), units[True], table.score[rows]))
        gains.append(float(np.mean(here)))
    learned = trusted and is_better(gains)
    judged = []
    for group in out:
        weights = process.without([int(group)])
        for rows in situations_of(table, own, int(group)):
            posterior = weights.of(rows)
            safe, single = single_best(table, rows, own, [int(group)])
            # Where the single best is known by its strategy alone, its settings are those that are expected to be best.
            first = int(safe[np.argmax(posterior.mean[safe])])
            order = posterior.order(None if learned else first)
            off, upper = _halves(posterior.mean, best.of(rows, own, [int(group)]), units[True], table.score[rows])
            losses = table.loss[rows]
            judged.append(
                Judged(
                    source=str(table.rows[rows[0]]["source"]),
                    group=int(group),
                    losses=losses[order],
                    predicted=-posterior.mean[order],
                    learned=learned,
                    sbs=single,
                    rule=_by_rules([table.rows[i] for i in rows], losses),
                    random=float(losses.mean()),
                    covered=errors.covered(off, upper),
                )
            )
    return judged


def is_better(gains: Sequence[float]) -> bool:
    """Return whether what is learned gains over the single best, group by group: on average, and not by chance.

    Wilcoxon's signed-rank test, one-sided: one lucky group decides nothing, and losses may be far apart.
    """
    from scipy.stats import wilcoxon

    found = np.asarray(gains)
    if found.mean() <= 0 or not found.any():
        return False
    return bool(wilcoxon(found, alternative="greater", zero_method="zsplit").pvalue < CHANCE)


def _targets(table: Table, own: Switches, known: Switches) -> tuple[Array, dict[bool, float]]:
    """Return what is learned of each row, and the points that a unit is; a source at a time, each in its own unit."""
    y, units = np.zeros(len(own)), {}
    names = np.array([str(row["source"]) for row in table.rows])
    for source in np.unique(names):
        mine = np.flatnonzero(names == source)
        among = np.flatnonzero(known[mine])
        if len(among):
            y[mine], unit = targets(table.loss[mine], renumbered(table.situation[mine]), among)
            units[bool(own[mine[0]])] = unit
    return y, {True: 1.0, **units}


def situations_of(table: Table, own: Switches, group: int) -> list[Codes]:
    """Return the rows of each situation of a group, those of the source in question alone."""
    mine = np.flatnonzero(own & (table.group == group))
    return [mine[table.situation[mine] == number] for number in np.unique(table.situation[mine])]


class Level:
    """What the best score of a situation may be: that of like ones."""

    def __init__(self, table: Table, likeness: Likeness) -> None:
        """Take the situations of a table."""
        self._table, self._alike = table, likeness.situations_alike()
        self._best = np.full(len(self._alike), -np.inf)
        np.maximum.at(self._best, table.situation, table.score)
        self._group = np.zeros(len(self._alike), dtype=np.int64)
        self._group[table.situation] = table.group

    def of(self, rows: Codes, own: Switches, left_out: Sequence[int]) -> float:
        """Return the expected best score, in points, without some groups."""
        here = int(self._table.situation[rows[0]])
        kept = np.zeros(len(self._best), dtype=bool)
        kept[self._table.situation[own]] = True
        kept &= ~np.isin(self._group, left_out)
        if not kept.any():
            kept = ~np.isin(self._group, left_out)
        if not kept.any():
            return float(self._best.mean())
        weights = self._alike[here, kept] ** 8 + 1e-9
        return float((weights * self._best[kept]).sum() / weights.sum())


def _halves(expected: Array, best: float, unit: float, scores: Array) -> tuple[Array, Switches]:
    """Return by how much predicted scores are off, and which candidates are in the half that looks better."""
    predicted = best - unit * (expected.max() - expected)
    return np.abs(predicted - scores), expected >= np.median(expected)


class Errors:
    """By how much predictions were off on groups that were left out, apart for candidates that look good and bad.

    Their quantile, all groups weighing the same, is the width of an interval (conformal prediction with grouped data:
    Dunn, Wasserman and Ramdas 2023, arXiv 1809.07441, pooled distributions; apart: Vovk 2012, arXiv 1209.2673).
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._off: dict[bool, list[tuple[int, Array]]] = {True: [], False: []}

    def add(self, group: int, off: Array, upper: Switches) -> None:
        """Take the errors of one situation."""
        for half in (True, False):
            if (upper == half).any():
                self._off[half].append((group, off[upper == half]))

    def width(self, half: bool, share: float = 0.9) -> float:
        """Return what so large a share of the errors stays within; infinite where none is known."""
        found = self._off[half]
        if not found:
            return math.inf
        groups = np.concatenate([np.full(len(off), group) for group, off in found])
        errors = np.concatenate([off for _, off in found])
        weights = 1.0 / np.bincount(groups)[groups]
        order = np.argsort(errors)
        reached = np.cumsum(weights[order]) / weights.sum()
        return float(errors[order][min(int(np.searchsorted(reached, share)), len(order) - 1)])

    def covered(self, off: Array, upper: Switches) -> float:
        """Return the share of errors that are within the width."""
        widths = np.where(upper, self.width(True), self.width(False))
        return float((off <= widths).mean())


def single_best(table: Table, rows: Codes, own: Switches, left_out: Sequence[int]) -> tuple[Codes, float]:
    """Return the places of the single best candidate of the other groups, and what it loses.

    The best of its own source, where it has other groups. Of a strategy whose settings were not tried elsewhere all
    are returned, and the mean of what they lose; so it is with all candidates, where none was tried elsewhere.
    """
    others = ~np.isin(table.group, left_out)
    kept = others & own
    kept = kept if kept.any() else others
    mine = np.arange(len(rows))
    for names in (table.candidate, table.strategy) if kept.any() else ():
        sums, count = (np.bincount(names[kept], weights) for weights in (table.loss[kept], None))
        known = np.minimum(names[rows], len(count) - 1)
        tried = np.where(names[rows] < len(count), count[known], 0)
        if tried.any():
            often = tried >= tried.max() / 2  # one that was lucky once is not the best
            mean = np.where(often, sums[known] / np.maximum(tried, 1), np.inf)
            mine = np.flatnonzero(names[rows] == names[rows][int(np.argmin(mean))])
            break
    return mine, float(table.loss[rows[mine]].mean())


def _by_rules(rows: Sequence[dict[str, Any]], losses: Array) -> float:
    """Return what the decision table's choice loses: the mean over what it prefers and there is, else over all."""
    params, number = rows[0]["backbone_params"], rows[0]["n_train"]
    situation = Situation(
        similar=None,
        modality=None,
        model_params=float(params) if pd.notna(params) and params > 0 else None,
        n_train=int(number) if pd.notna(number) and number > 0 else None,
    )
    wanted = {strategy for verdict in decide(situation) for strategy in verdict.prefer}
    mine = np.array([plain_name(str(row["strategy"])) in wanted for row in rows])
    return float(losses[mine].mean() if mine.any() else losses.mean())


def _expected_best(losses: Array, number: int) -> float:
    """Return the expected smallest of so many losses drawn without replacement."""
    ordered, n = np.sort(losses), len(losses)
    k = min(number, n)
    return float(sum(ordered[i] * math.comb(n - i - 1, k - 1) for i in range(n - k + 1)) / math.comb(n, k))


def _figures(judged: Sequence[Judged], joint: bool, seed: int) -> dict[str, Any]:
    """Return the figures of some situations, with 95 % intervals from resampled groups."""
    ours = np.array([own.losses[0] for own in judged])
    three = np.array([own.losses[:3].min() for own in judged])
    sbs = np.array([own.sbs for own in judged])
    groups = np.array([own.group for own in judged])
    rng = np.random.default_rng(seed)
    of = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    draws = [np.concatenate([of[i] for i in rng.integers(0, len(of), len(of))]) for _ in range(RESAMPLES)]
    found: dict[str, Any] = {
        "regret_mean": _round(ours.mean()),
        "regret_mean_interval": _interval([ours[draw].mean() for draw in draws]),
        "regret_top3": _round(three.mean()),
        "regret_sbs": _round(sbs.mean()),
        "regret_learned": _round(np.mean([own.losses[int(np.argmin(own.predicted))] for own in judged])),
        "regret_rule": _round(np.mean([own.rule for own in judged])),
        "regret_random": _round(np.mean([own.random for own in judged])),
        "regret_max": _round(ours.max()),
        "closed_gap": _gap(sbs, ours),
        "closed_gap_interval": _interval([gap for draw in draws if (gap := _gap(sbs[draw], ours[draw])) is not None]),
        "closed_gap_top3": _gap(sbs, three),
        "spearman": _spearman(judged),
        "coverage_90": _round(np.mean([own.covered for own in judged])),
        "share_learned": _round(np.mean([own.learned for own in judged])),
        "situations": len(judged),
        "groups": len(of),
        "candidates": int(sum(len(own.losses) for own in judged)),
    }
    if joint:
        found["regret_best_of"] = {str(k): _round(np.mean([own.losses[:k].min() for own in judged])) for k in BEST_OF}
        found["random_best_of"] = {
            str(k): _round(np.mean([_expected_best(own.losses, k) for own in judged])) for k in BEST_OF
        }
    return found


def _gap(sbs: Array, ours: Array) -> float | None:
    """Return the share of the way from the single best to the virtual best; ``None`` where there is no way."""
    return _round((sbs.mean() - ours.mean()) / sbs.mean()) if sbs.mean() > 0 else None


def _spearman(judged: Sequence[Judged]) -> float | None:
    found = []
    for own in judged:
        # Predictions that differ in their last digits alone are level: sums depend on the number of threads.
        a, b = (pd.Series(np.round(values, 9)).rank().to_numpy() for values in (own.predicted, own.losses))
        if len(a) > 2 and a.std() > 0 and b.std() > 0:
            found.append(float(np.corrcoef(a, b)[0, 1]))
    return _round(np.mean(found)) if found else None


def _interval(values: Sequence[float]) -> list[float] | None:
    return [_round(own) for own in np.quantile(values, [0.025, 0.975])] if values else None


def _round(value: Any) -> float:
    return round(float(value), 6)
