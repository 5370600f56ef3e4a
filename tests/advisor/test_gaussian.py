"""The process behind `advisor evaluate`, against the same thing worked out at length."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from advisor.gaussian import JITTER, LEVEL, Posterior, Process, learned_variances, targets, thinned
from advisor.likeness import Likeness, coded

Row = dict[str, Any]


def row(task: int, strategy: str, lr: float = 1e-3, **more: Any) -> Row:
    place = {"source": "s", "task": f"t{task}", "n_train": 100, "backbone": "net", "backbone_params": 1e6}
    return {**place, "strategy": strategy, "hparams": {"lr": lr}, **more}


def rows_of(tasks: int, seed: int = 0) -> tuple[list[Row], np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = [
        row(task, strategy, lr, n_train=10 * 4 ** (task % 3))
        for task, strategy, lr in product(range(tasks), ("a", "b", "c"), (1e-4, 1e-3, 1e-2))
    ]
    level = {"a": 0.0, "b": 2.0, "c": 6.0}
    loss = [level[r["strategy"]] + abs(np.log10(r["hparams"]["lr"]) + 3) + rng.exponential(0.3) for r in rows]
    return rows, np.array(loss)


def test_what_is_expected_is_what_a_kriging_system_gives() -> None:
    rows, loss = rows_of(6)
    likeness = Likeness(rows, True)
    group = coded([r["task"] for r in rows])[1]
    known = np.flatnonzero(group != 2)
    y, _ = targets(loss, likeness.situation, known)
    variances = np.append(np.linspace(0.05, 0.4, len(likeness.components)), 0.2)
    weights = Process(likeness, variances, y, np.arange(len(rows)), group).without([2])
    asked = np.flatnonzero(group == 2)
    # The same with a covariance matrix, situations' levels as a next to infinite variance.
    same = (likeness.situation[known][:, None] == likeness.situation[known][None, :]).astype(float)
    covariance = likeness.between(variances[:-1], known, known) + (variances[-1] + JITTER) * np.eye(len(known))
    solved = np.linalg.solve(covariance + 1e4 * LEVEL * same, y[known])
    expected = likeness.between(variances[:-1], asked, known) @ solved
    assert weights.mean_of(asked) == pytest.approx(expected - expected.mean(), abs=2e-3)
    # And in its spread: draws have the posterior's covariance.
    between = likeness.between(variances[:-1], asked, known)
    middle = np.eye(len(asked)) - 1 / len(asked)
    prior = likeness.between(variances[:-1], asked, asked)
    exact = middle @ (prior - between @ np.linalg.solve(covariance + 1e4 * LEVEL * same, between.T)) @ middle
    draws = weights.of(asked).draws
    assert np.trace(np.cov(draws.T)) == pytest.approx(np.trace(exact), rel=0.25)


def test_a_group_left_out_says_nothing() -> None:
    rows, loss = rows_of(5)
    likeness, group = Likeness(rows, True), coded([r["task"] for r in rows])[1]
    variances = np.append(np.full(len(likeness.components), 0.2), 0.1)
    found = []
    for worse in (0.0, 50.0):
        changed = loss + worse * (group == 1) * np.arange(len(loss))
        y, _ = targets(changed, likeness.situation, np.flatnonzero(group != 1))
        process = Process(likeness, variances, y, np.arange(len(rows)), group)
        found.append(process.without([1]).mean_of(np.flatnonzero(group == 1)))
        with_it = process.without([]).mean_of(np.flatnonzero(group == 0))
    assert found[0] == pytest.approx(found[1], abs=1e-9)
    assert with_it != pytest.approx(found[1], abs=1e-3)


def test_variances_tell_what_matters_from_what_does_not() -> None:
    rng = np.random.default_rng(1)
    rows = [row(task, name, backbone=f"net {task % 2}") for task in range(24) for name in "abcd"]
    by_strategy = np.array([{"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0}[r["strategy"]] for r in rows])
    likeness = Likeness(rows, False)
    everything = np.arange(len(rows))

    def noise_of(loss: np.ndarray) -> float:
        y, _ = targets(loss, likeness.situation, everything)
        return float(learned_variances(likeness, y, everything)[-1])

    assert noise_of(by_strategy + rng.normal(0, 0.05, len(rows))) < 0.1
    assert noise_of(rng.exponential(1.0, len(rows))) > 0.5


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "source": st.sampled_from(["x", "y"]),
                "task": st.sampled_from(["digits shifted", "digits", "reviews 2", ""]),
                "n_train": st.sampled_from([10, 1000.0, None, float("nan")]),
                "backbone": st.sampled_from(["Llama-3-8B", "Llama-3-1B", "bert"]),
                "backbone_params": st.sampled_from([1e6, 8e9, None]),
                "modality": st.sampled_from(["text", "image", None]),
                "strategy": st.sampled_from(["lora", "LoRA", "adapter series", "adapter-parallel"]),
                "hparams": st.dictionaries(
                    st.sampled_from(["lr", "rank", "where"]),
                    st.one_of(st.sampled_from([1e-3, 2, 0, -1.5, True, "all", None]), st.floats(1e-6, 10)),
                    max_size=3,
                ),
            }
        ),
        min_size=2,
        max_size=25,
    ),
    st.booleans(),
)
def test_whatever_the_rows_are_it_is_a_covariance(rows: list[Row], joint: bool) -> None:
    likeness = Likeness(rows, joint)
    everything = np.arange(len(rows))
    for part in likeness.each(everything):
        assert part == pytest.approx(part.T)
        assert np.linalg.eigvalsh(part).min() > -1e-8
    variances = np.full(len(likeness.components), 0.3)
    assert likeness.between(variances, everything, everything) == pytest.approx(0.3 * likeness.each(everything).sum(0))


def test_what_is_tried_after_the_first_makes_up_for_it() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(1.0, 1.0, 2000)
    # The second is nearly the first again; the third is worse on average, and good where the first is bad.
    draws = np.stack([first, first - 0.01, 0.5 - (first - 1.0)], axis=1)
    assert Posterior(draws.mean(0), draws).order() == [0, 2, 1]
    assert Posterior(draws.mean(0), draws).order(1)[:2] == [1, 2]


def test_losses_are_cut_at_their_median_and_each_situation_counts_from_its_middle() -> None:
    situation = np.array([0, 0, 0, 1, 1, 1])
    y, unit = targets(np.array([0.0, 1.0, 100.0, 0.0, 2.0, 3.0]), situation, np.arange(6))
    cut = stats.scoreatpercentile([1.0, 100.0, 2.0, 3.0], 50)
    expected = -np.minimum([0.0, 1.0, 100.0, 0.0, 2.0, 3.0], cut)
    expected = expected - np.repeat([expected[:3].mean(), expected[3:].mean()], 3)
    assert y * unit == pytest.approx(expected)
    assert np.mean(y**2) == pytest.approx(1)


def test_a_large_table_is_thinned_evenly() -> None:
    situation = np.repeat(np.arange(5), [100, 100, 100, 3, 3])
    kept = thinned(situation, np.arange(306), 46)
    assert np.bincount(situation[kept]).tolist()[3:] == [3, 3]
    assert max(np.bincount(situation[kept])) <= 14
