"""Searches: who climbs, on what, and with which seeds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sweeper.search import SEARCHES, rungs
from sweeper.spec import Status, TrialResult, TrialSpec
from tests import small


def row_of(trial: TrialSpec, valid: float | None) -> TrialResult:
    return (
        TrialResult(trial, Status.FAILED)
        if valid is None
        else TrialResult(trial, Status.COMPLETE, {"valid_score": valid})
    )


@given(
    scores=st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=30),
    steps=st.integers(1, 200),
    name=st.sampled_from(sorted(SEARCHES)),
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
            assert len(rates) <= SEARCHES[name].kept(len(left))
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
