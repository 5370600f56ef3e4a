"""How good the advice is on what it has not seen: whole groups (tasks, as a rule) left out, one after the other.

Everything that is chosen for a group, bandwidths included, is chosen without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from advisor.kernel import (
    BANDWIDTHS,
    PLAIN,
    Array,
    Bandwidth,
    Sums,
    Table,
    names,
    plain_name,
    situation_distances,
    sums,
)
from advisor.rules import decide
from advisor.situation import Situation
from advisor.table import points, situations

LEAST_GROUPS = 8
"""Sources with fewer groups than this choose no bandwidth and have no interval of their own."""
BEST_OF = (1, 3, 5, 20, 100)
RESAMPLES = 1_000


@dataclass(frozen=True)
class Judged:
    """One situation that was left out.

    Attributes:
        losses: Points below the best of the situation, in the order of the advice, the best first.
        predicted: What was predicted of them.
        three: Loss of the best of three that were chosen to make up for one another.
        sbs, rule, random: Loss of the single best candidate of the rest, of the rules, of a random candidate.
        covered: Share of the candidates whose score lay in its 90 % interval.
    """

    source: str
    group: int
    losses: Array
    predicted: Array
    three: float
    sbs: float
    rule: float
    random: float
    covered: float


def evaluate(frame: pd.DataFrame, group_by: Sequence[str] = ("task",), seed: int = 0) -> dict[str, Any]:
    """Return regret figures of advice on left-out groups, as JSON has them.

    Args:
        frame: As `advisor.table.read` returns it.
        group_by: Columns that say what is left out together.
        seed: Of the bootstrap.

    Returns:
        ``strategy_only`` (each strategy at its best settings) and ``joint`` (strategy with settings), each with
        ``total`` and ``sources``. Regret is in points: per cent of the score, below the best of the situation.

    Raises:
        ValueError: a column is missing, or there are fewer than two groups with a choice.
    """
    for name in group_by:
        if name not in frame:
            raise ValueError(f"no column named {name!r} to group by: there are {', '.join(map(str, frame.columns))}")
    frame = points(frame)
    settings = _mean_over_seeds(frame)
    found: dict[str, Any] = {}
    for block, candidates, joint in (
        ("strategy_only", _tuned(settings), False),
        ("joint", settings, True),
    ):
        table = Table.of(candidates, group_by)
        if not joint and not len(table.loss):  # one strategy alone
            found[block] = {"total": {"situations": 0}, "sources": {}}
            continue
        if len(np.unique(table.group)) < 2:
            raise ValueError(
                f"fewer than two groups by {', '.join(group_by)} have situations with a choice: nothing can be left out"
            )
        judged = _leave_out(table, joint)
        of = {name: [own for own in judged if own.source == name] for name in dict.fromkeys(j.source for j in judged)}
        found[block] = {
            "total": _figures(judged, joint, seed),
            "sources": {name: _figures(own, joint, seed) for name, own in of.items()},
        }
    return found


def _mean_over_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each strategy with settings in each situation."""
    keyed = frame.assign(_name=names(frame), _situation=situations(frame))
    groups = keyed.groupby(["_situation", "_name"], sort=False)
    first = keyed.loc[groups.head(1).index].set_index(["_situation", "_name"])
    for name in ("score", "valid"):
        first[name] = groups[name].mean()
    return first.reset_index()


def _tuned(settings: pd.DataFrame) -> pd.DataFrame:
    """Return each strategy at its best settings: best on validation rows, or without these on all there is."""
    judge = settings["valid"].where(settings["valid"].notna(), settings["score"])
    best = settings.assign(_judge=judge).sort_values("_judge", ascending=False, kind="stable")
    chosen = best.drop_duplicates(["_situation", "strategy"]).sort_index()
    return chosen.assign(hparams=pd.Series([{} for _ in chosen.index], index=chosen.index, dtype=object))


def _leave_out(table: Table, joint: bool) -> list[Judged]:
    known = {bandwidth: sums(table, bandwidth) for bandwidth in BANDWIDTHS}
    sources = table.frame["source"].to_numpy()
    candidate = pd.factorize(names(table.frame))[0]
    first = table.frame.drop_duplicates("_situation").reset_index(drop=True)
    between = situation_distances(first, first)
    score = table.frame["score"].to_numpy(float)
    best = pd.Series(score).groupby(table.situation).max().to_numpy()
    judged = []
    rows_of = [np.flatnonzero(table.situation == number) for number in range(len(first))]
    situations_of = pd.Series(range(len(first))).groupby([table.group[rows[0]] for rows in rows_of]).apply(list)
    source_of = np.array([sources[rows[0]] for rows in rows_of])
    group_of = np.array([table.group[rows[0]] for rows in rows_of])
    for group in np.unique(table.group):
        for source in np.unique(sources[table.group == group]):
            bandwidth = _chosen(
                table, known, rows_of, situations_of, source_of, group_of, source, group, candidate, sources
            )
            own = known[bandwidth]
            level, spread = _levels(table, own, bandwidth, rows_of, source_of, group_of, best, between, source, group)
            for number in situations_of[group]:
                if source_of[number] != source:
                    continue
                rows = rows_of[number]
                predicted = own.predict(rows, [group], bandwidth.shrink)
                order = _order(table, candidate, rows, sources, source, [group], predicted, bandwidth)
                losses = table.loss[rows]
                inside = np.abs(level(number) - predicted - score[rows]) <= spread
                judged.append(
                    Judged(
                        source=str(source),
                        group=int(group),
                        losses=losses[order],
                        predicted=predicted[order],
                        three=_three(table, rows, order, predicted, group, between[number], joint),
                        sbs=_sbs(table, candidate, rows, sources, source, [group])[1],
                        rule=_by_rules(table.frame.iloc[rows], losses),
                        random=float(losses.mean()),
                        covered=float(inside.mean()),
                    )
                )
    return judged


def _chosen(
    table: Table,
    known: dict[Any, Sums],
    rows_of: list[Any],
    situations_of: pd.Series,
    source_of: Any,
    group_of: Any,
    source: Any,
    group: int,
    candidate: Any,
    sources: Any,
) -> Bandwidth:
    """Return the bandwidth that did best on the other groups of a source, each left out in turn.

    Nearness must beat the plain mean by a standard error, else it is chance.
    """
    others = [g for g in np.unique(group_of[source_of == source]) if g != group]
    if len(others) < LEAST_GROUPS:
        return PLAIN
    lost: dict[Bandwidth, Array] = {}
    for bandwidth, own in known.items():
        of_groups = []
        for other in others:
            here = []
            for number in situations_of[other]:
                if source_of[number] == source:
                    rows = rows_of[number]
                    predicted = own.predict(rows, [group, other], bandwidth.shrink)
                    out = [group, other]
                    order = _order(table, candidate, rows, sources, source, out, predicted, bandwidth)
                    here.append(table.loss[rows[order[0]]])
            of_groups.append(np.mean(here))
        lost[bandwidth] = np.array(of_groups)
    plain = lost[PLAIN]
    best = min(lost, key=lambda bandwidth: lost[bandwidth].mean())
    gains = plain - lost[best]
    error = gains.std(ddof=1) / math.sqrt(len(gains))
    return best if gains.mean() > error else PLAIN


def _levels(
    table: Table,
    own: Sums,
    bandwidth: Any,
    rows_of: list[Any],
    source_of: Any,
    group_of: Any,
    best: Array,
    between: Array,
    source: Any,
    group: int,
) -> tuple[Callable[[int], float], float]:
    """Return what the best score of a situation may be, and how far predicted scores were off on other groups.

    The latter is a conformal quantile over groups (Dunn, Wasserman and Ramdas 2023, arXiv 1809.07441): of the errors
    of each group left out in turn, pooled with equal weight for each group.
    """
    training = np.flatnonzero(group_of != group)
    same = training[source_of[training] == source]
    enough = len(np.unique(group_of[same])) >= LEAST_GROUPS
    used = same if enough else training

    def level(number: int, without: int | None = None) -> float:
        kept = used[group_of[used] != without] if without is not None else used
        weights = np.exp(-between[number, kept] / 1.0) + 1e-9
        return float((weights * best[kept]).sum() / weights.sum())

    errors, weights = [], []
    for other in np.unique(group_of[used]):
        off = []
        for number in used[group_of[used] == other]:
            rows = rows_of[number]
            predicted = own.predict(rows, [group, int(other)], bandwidth.shrink)
            scores = best[number] - table.loss[rows]
            off.append(np.abs(level(number, other) - predicted - scores))
        pooled = np.concatenate(off)
        errors.append(pooled)
        weights.append(np.full(len(pooled), 1 / len(pooled)))
    all_errors, all_weights = np.concatenate(errors), np.concatenate(weights)
    order = np.argsort(all_errors)
    reached = np.cumsum(all_weights[order]) / (all_weights.sum() + 1)  # one more group is to come
    inside = int(np.searchsorted(reached, 0.9))
    return level, float(all_errors[order][min(inside, len(order) - 1)])


def _three(table: Table, rows: Any, order: Any, predicted: Array, group: int, distances: Array, joint: bool) -> float:
    """Return what the best of three candidates loses: the first pick, and those that make up for it best elsewhere."""
    losses = table.loss[rows]
    if joint:
        return float(losses[order[:3]].min())
    strategies = table.strategy[rows]
    chosen = [int(order[0])]
    kept = table.group != group
    elsewhere: dict[int, dict[int, float]] = {}
    for row in np.flatnonzero(kept & np.isin(table.strategy, strategies)):
        elsewhere.setdefault(int(table.situation[row]), {})[int(table.strategy[row])] = float(table.loss[row])
    while len(chosen) < min(3, len(rows)):
        gains = np.zeros(len(rows))
        for number, lost in elsewhere.items():
            so_far = min((lost[int(strategies[own])] for own in chosen if int(strategies[own]) in lost), default=None)
            if so_far is None:
                continue
            weight = math.exp(-distances[number] / 4.0)
            for own, strategy in enumerate(strategies):
                if int(strategy) in lost:
                    gains[own] += weight * max(0.0, so_far - lost[int(strategy)])
        gains[chosen] = -1.0
        # Where nothing tells them apart, the next best by itself.
        gains -= 1e-6 * predicted
        chosen.append(int(np.argmax(gains)))
    return float(losses[chosen].min())


def _order(
    table: Table,
    candidate: Any,
    rows: Any,
    sources: Any,
    source: Any,
    left_out: Sequence[int],
    predicted: Array,
    bandwidth: Bandwidth,
) -> Any:
    """Return the places of candidates, the best first; where nearness is of no use, the single best comes first."""
    order = np.argsort(predicted, kind="stable")
    first = None if bandwidth is not PLAIN else _sbs(table, candidate, rows, sources, source, left_out)[0]
    return order if first is None else np.concatenate([[first], order[order != first]])


def _sbs(
    table: Table, candidate: Any, rows: Any, sources: Any, source: Any, left_out: Sequence[int]
) -> tuple[int | None, float]:
    """Return the place of the single best candidate of the other groups, and what it loses.

    The best of its own source, where it has other groups; ``None``, and a mean, where none of these was tried there.
    """
    others = ~np.isin(table.group, left_out)
    kept = others & (sources == source)
    kept = kept if kept.any() else others
    for names_ in (candidate, table.strategy):
        mean = pd.Series(table.loss[kept]).groupby(names_[kept]).agg(["mean", "size"])
        here = mean[mean.index.isin(names_[rows])]
        if len(here):
            often = here[here["size"] >= here["size"].max() / 2]  # one that was lucky once is not the best
            mine = np.flatnonzero(names_[rows] == often["mean"].idxmin())
            # Of a strategy whose settings were not tried elsewhere, a random one.
            return int(mine[0]) if len(mine) == 1 else None, float(table.loss[rows[mine]].mean())
    return None, float(table.loss[rows].mean())


def _by_rules(rows: pd.DataFrame, losses: Array) -> float:
    """Return what the decision table's choice loses: the mean over what it prefers and there is, else over all."""
    first = rows.iloc[0]
    params, number = first["backbone_params"], first["n_train"]
    situation = Situation(
        similar=None,
        modality=None,
        model_params=float(params) if pd.notna(params) and params > 0 else None,
        n_train=int(number) if pd.notna(number) and number > 0 else None,
    )
    wanted = {strategy for verdict in decide(situation) for strategy in verdict.prefer}
    mine = np.array([plain_name(str(own)) in wanted for own in rows["strategy"]])
    return float(losses[mine].mean() if mine.any() else losses.mean())


def _expected_best(losses: Array, number: int) -> float:
    """Return the expected smallest of so many losses drawn without replacement."""
    ordered, n = np.sort(losses), len(losses)
    k = min(number, n)
    return float(sum(ordered[i] * math.comb(n - i - 1, k - 1) for i in range(n - k + 1)) / math.comb(n, k))


def _figures(judged: Sequence[Judged], joint: bool, seed: int) -> dict[str, Any]:
    """Return the figures of some situations, with 95 % intervals from resampled groups."""
    ours = np.array([own.losses[0] for own in judged])
    three, sbs = np.array([own.three for own in judged]), np.array([own.sbs for own in judged])
    groups = np.array([own.group for own in judged])
    rng = np.random.default_rng(seed)
    of = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    draws = [np.concatenate([of[i] for i in rng.integers(0, len(of), len(of))]) for _ in range(RESAMPLES)]
    found: dict[str, Any] = {
        "regret_mean": _round(ours.mean()),
        "regret_mean_interval": _interval([ours[draw].mean() for draw in draws]),
        "regret_top3": _round(three.mean()),
        "regret_sbs": _round(sbs.mean()),
        "regret_rule": _round(np.mean([own.rule for own in judged])),
        "regret_random": _round(np.mean([own.random for own in judged])),
        "regret_max": _round(ours.max()),
        "closed_gap": _gap(sbs, ours),
        "closed_gap_interval": _interval([gap for draw in draws if (gap := _gap(sbs[draw], ours[draw])) is not None]),
        "closed_gap_top3": _gap(sbs, three),
        "spearman": _spearman(judged),
        "coverage_90": _round(np.mean([own.covered for own in judged])),
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
        a, b = pd.Series(own.predicted).rank().to_numpy(), pd.Series(own.losses).rank().to_numpy()
        if len(a) > 2 and a.std() > 0 and b.std() > 0:
            found.append(float(np.corrcoef(a, b)[0, 1]))
    return _round(np.mean(found)) if found else None


def _interval(values: Sequence[float]) -> list[float] | None:
    return [_round(own) for own in np.quantile(values, [0.025, 0.975])] if values else None


def _round(value: Any) -> float:
    return round(float(value), 6)
