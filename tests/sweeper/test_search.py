"""Searches: who climbs, on what, and with which seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.search import FINALISTS, SEARCHES, fronts, rungs
from sweeper.spec import Status, TrialResult, TrialSpec
from tests import small

KEPT = {"grid": lambda n: n, "halving": lambda n: math.ceil(n / 3), "one-epoch": lambda n: min(3, n)}
CHOOSING = sorted(name for name, search in SEARCHES.items() if search.chooses)


def row_of(trial: TrialSpec, valid: float | None) -> TrialResult:
    return (
        TrialResult(trial, Status.FAILED)
        if valid is None
        else TrialResult(trial, Status.COMPLETE, {"valid_score": valid})
    )


@given(
    scores=st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=30),
    steps=st.integers(1, 200),
    name=st.sampled_from(sorted(KEPT)),
)
def test_the_best_of_each_rung_go_on(scores: list[float | None], steps: int, name: str) -> None:
    settings = {1e-3 * (k + 1): score for k, score in enumerate(scores)}
    some = [small.spec(lr=lr, seed=seed) for lr in settings for seed in (4, 5)]
    trials = [replace(trial, train=replace(trial.train, steps=steps)) for trial in some]
    climb, rows, left, budgets = rungs(name, trials), None, set(settings), []
    while True:
        try:
            rung = climb.send(rows)  # type: ignore[arg-type]
        except StopIteration:
            break
        rates = {trial.train.lr for trial in rung}
        assert rates <= left
        if budgets:  # the worst that goes on is no worse than the best that does not
            kept = [settings[lr] for lr in rates]
            assert None not in kept
            out = [settings[lr] for lr in left - rates if settings[lr] is not None]
            assert not kept or min(kept) >= max(out, default=0.0)  # type: ignore[type-var]
            assert len(rates) <= KEPT[name](len(left))
        left, budgets = rates, [*budgets, {trial.train.steps for trial in rung}]
        last = budgets[-1] == {steps}
        assert sorted(trial.seed for trial in rung) == sorted([4, 5] * len(rates) if last else [4] * len(rates))
        rows = [row_of(trial, settings[trial.train.lr]) for trial in rung]
    assert all(max(few) < min(more) for few, more in pairwise(budgets) if few and more)
    if name == "grid":
        assert budgets == [{steps}]


def test_situations_do_not_compete() -> None:
    easy = [small.spec(lr=lr) for lr in (1e-3, 1e-2, 1e-1)]
    trials = [replace(t, n_train=n, train=replace(t.train, steps=90)) for t in easy for n in (40, 80)]
    climb = rungs("halving", trials)
    first = next(climb)
    second = climb.send([row_of(trial, trial.n_train / 100 + trial.train.lr) for trial in first])
    assert [(trial.n_train, trial.train.lr, trial.train.steps) for trial in second] == [(40, 0.1, 30), (80, 0.1, 30)]


def space() -> list[TrialSpec]:
    """Return 96 settings of LoRA and 8 of full fine-tuning, with two seeds each."""
    rates = [10 ** (-4 + k / 4) for k in range(12)]
    lora = [small.spec(lr=lr, rank=rank, seed=seed) for lr in rates for rank in range(1, 9) for seed in (4, 5)]
    full = [small.spec("full", lr=lr, seed=seed) for lr in rates[:8] for seed in (4, 5)]
    return [replace(trial, train=replace(trial.train, steps=90)) for trial in lora + full]


def smooth(trial: TrialSpec) -> float:
    """Return a score that is best for LoRA of rank 6 at a rate of 1e-2."""
    if trial.strategy == "full":
        return 0.5
    return 1 - 0.1 * abs(math.log10(trial.train.lr) + 2) - 0.02 * abs(int(str(trial.hparams["rank"])) - 6)


def run(
    name: str, score: Callable[[TrialSpec], float | None], budget: int | None = None, trials: Sequence[TrialSpec] = ()
) -> list[list[TrialSpec]]:
    climb, rows, rounds = rungs(name, trials or space(), budget), None, []
    while True:
        try:
            rounds.append(climb.send(rows))  # type: ignore[arg-type]
        except StopIteration:
            return rounds
        rows = [row_of(trial, score(trial)) for trial in rounds[-1]]


@pytest.mark.parametrize("name", CHOOSING)
@pytest.mark.parametrize("budget", [1, 20, 1000])
def test_a_search_that_chooses_stays_in_its_space_and_its_budget(name: str, budget: int) -> None:
    *searching, last = run(name, smooth, budget)
    ids = {trial.trial_id for trial in space()}
    full = [trial for rung in searching for trial in rung if trial.train.steps == 90]
    tried = {(trial.strategy, trial.train.lr, str(trial.hparams)) for rung in searching for trial in rung}
    assert {trial.trial_id for trial in full + last} <= ids
    assert len(tried) == min(budget, 104)
    assert all(trial.seed == 4 for rung in searching for trial in rung)
    assert sorted(trial.seed for trial in last) == sorted([4, 5] * min(budget, FINALISTS))
    best = sorted({smooth(trial) for trial in full}, reverse=True)
    assert max(smooth(trial) for trial in last) == best[0]
    again = run(name, smooth, budget)
    assert [[t.trial_id for t in rung] for rung in again] == [[t.trial_id for t in rung] for rung in [*searching, last]]


@pytest.mark.parametrize("name", sorted(SEARCHES))
def test_a_search_ends_where_nothing_completes(name: str) -> None:
    *searching, last = run(name, lambda trial: None)
    assert last == ([] if searching else space())


def test_hyperband_gives_few_settings_all_steps() -> None:
    *searching, last = run("hyperband", smooth)
    tried = [sum(trial.train.steps == steps for rung in searching for trial in rung) for steps in (10, 30, 90)]
    assert tried[0] > tried[2] > FINALISTS
    assert max(smooth(trial) for trial in last) > 0.9


def test_the_estimator_finds_more_than_chance_does() -> None:
    rates, decays = [10 ** (-4 + k / 8) for k in range(24)], [k / 16 for k in range(16)]
    lora = [small.spec(lr=lr, rank=rank) for lr in rates for rank in range(1, 9)]
    wide = [replace(trial, train=replace(trial.train, weight_decay=decay)) for trial in lora for decay in decays]

    def found(name: str, at: int) -> float:
        def score(trial: TrialSpec) -> float:
            rate = abs(rates.index(trial.train.lr) - at) / 24
            return 1 - rate - abs(int(str(trial.hparams["rank"])) - 6) / 8 - abs(trial.train.weight_decay - 0.25)

        return max(score(trial) for trial in run(name, score, 48, wide)[-1])

    places = (4, 12, 20)
    assert statistics.mean(found("tpe", n) for n in places) > statistics.mean(found("random", n) for n in places)


def test_advice_comes_first_and_then_what_may_be_better() -> None:
    trials = space()
    situation = (trials[0].model, trials[0].task, trials[0].n_train)
    advice = {situation: {"full": {"lr": 1e-3}, "lora": {"rank": 4, "lr": 1e-3}}}
    climb = rungs("advisor", trials, 20, advice=advice)
    first = next(climb)
    assert [(t.strategy, round(t.train.lr, 6), t.hparams.get("rank")) for t in first] == [
        ("full", 0.001, None),
        ("lora", 0.001, 4),
    ]
    second = climb.send([row_of(trial, smooth(trial)) for trial in first])
    counted = [trial.strategy for trial in second]
    assert counted.count("lora") > counted.count("full"), "the better one has the higher bound"


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
def test_a_front_is_what_nothing_left_is_better_than(points: list[tuple[int, int]]) -> None:
    def better(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a != b and a[0] >= b[0] and a[1] >= b[1]

    rank = fronts({str(n): point for n, point in enumerate(points)})
    for n, own in enumerate(points):
        above = [rank[str(m)] for m, other in enumerate(points) if better(other, own)]
        assert rank[str(n)] == max(above, default=-1) + 1


def test_objectives_are_weighed_together() -> None:
    trials = [small.spec(lr=lr) for lr in (1e-4, 1e-3, 1e-2, 1e-1)]
    facts = {1e-4: (0.9, 100), 1e-3: (0.8, 10), 1e-2: (0.7, 50), 1e-1: (0.6, 60)}

    def rows(some: Sequence[TrialSpec]) -> list[TrialResult]:
        named = [
            (trial, dict(zip(("valid_score", "trainable_params"), facts[trial.train.lr], strict=True)))
            for trial in some
        ]
        return [TrialResult(trial, Status.COMPLETE, metrics) for trial, metrics in named]

    trials = [replace(trial, train=replace(trial.train, steps=15)) for trial in trials]
    climb = rungs("halving", trials, objectives=["score", "trainable-params"])
    last = climb.send(rows(next(climb)))
    assert [trial.train.lr for trial in last] == [1e-4, 1e-3], "0.7 with 50 is worse than 0.8 with 10"
