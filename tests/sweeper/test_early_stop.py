"""Early stopping: who stops is what the rules say, and a row says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.early_stop import ETA, EarlyStop
from sweeper.spec import Status, TrainArgs, TrialSpec
from sweeper.trial import run_trials
from tests import small

RATES = [1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1]


def trials(rates: list[float] = RATES) -> list[TrialSpec]:
    args = TrainArgs(batch_size=16, steps=12)
    return [replace(small.spec("lora"), train=replace(args, lr=rate)) for rate in rates]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_of_a_rung_the_best_third_goes_on_and_never_nobody(scores: list[float]) -> None:
    some = trials(RATES[: len(scores)])
    stopped = EarlyStop("asha").judge(2, some, scores)
    going_on = [score for trial, score in zip(some, scores, strict=True) if trial.trial_id not in stopped]
    assert max(scores) in going_on
    assert min(going_on) >= np.quantile(scores, 1 - 1 / ETA)
    assert not EarlyStop("asha").judge(3, some, scores), "no rung there"


def test_the_median_rule_takes_a_trials_best_and_the_others_means() -> None:
    rule, some = EarlyStop("median"), trials()
    assert not rule.judge(2, some, [0.1, 0.9, 0.5, 0.5, 0.5, 0.5]), "too early"
    stopped = rule.judge(4, some, [0.9, 0.1, 0.4, 0.6, 0.5, 0.5])
    # Means: 0.5, 0.5, 0.45, 0.55, 0.5, 0.5; bests: 0.9, 0.9, 0.5, 0.6, 0.5, 0.5.
    assert not stopped
    stopped = rule.judge(6, some, [0.9, 0.9, 0.3, 0.9, 0.2, 0.9])
    assert list(stopped) == [some[2].trial_id, some[4].trial_id]
    assert (
        "stopped at step 6 of 12: its best 0.500 on validation is below the median of 5 others"
        in stopped[some[2].trial_id]
    )


def test_few_are_not_compared_and_other_situations_neither() -> None:
    rule, some = EarlyStop("median"), trials()
    assert not rule.judge(6, some[:3], [0.1, 0.9, 0.9])
    assert not rule.judge(6, [replace(trial, n_train=60) for trial in some[3:]], [0.1, 0.9, 0.9])


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_a_stopped_trial_is_a_row_and_the_others_are_as_without(rule: str) -> None:
    plain = {row.trial_id: row for row in run_trials(trials())}
    rows = [*run_trials(trials(), judge=EarlyStop(rule).judge)]
    assert {row.trial_id for row in rows} == {*plain}
    pruned = [row for row in rows if row.status is Status.PRUNED]
    assert 0 < len(pruned) < len(rows)
    for row in rows:
        whole = plain[row.trial_id]
        length = len(row.curve)
        for ours, theirs in zip(row.curve, whole.curve[:length], strict=True):
            assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-3)
        if row.status is Status.PRUNED:
            assert length < len(whole.curve)
            assert row.error
            assert row.error.startswith("stopped at step")
            assert row.metrics["train_flops"] < whole.metrics["train_flops"]
            assert "test_score" not in row.metrics
        else:
            assert row.metrics["test_score"] == pytest.approx(whole.metrics["test_score"], abs=0.011)
            assert row.metrics["train_flops"] == pytest.approx(whole.metrics["train_flops"], rel=0.01)
