"""Rows that cannot be right: poisoned ones decide nothing, or are told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from advisor.doubt import doubts
from advisor.fit import fit
from advisor.recommend import Recommendation, recommend
from advisor.situation import Situation
from sweeper.results import Contents, read_store
from sweeper.spec import Status, TrialResult
from tests import small

SHIPPED = Path(__file__).parent.parent.parent / "results" / "shipped"
ASKED = Situation(model_params=40_000, n_train=100, modality="image", similar=False)


def answer_of(rows: list[TrialResult]) -> Recommendation:
    return recommend(ASKED, fit(Contents(rows, [], {row.trial_id: "results" for row in rows})))


@pytest.fixture(scope="module")
def honest() -> list[TrialResult]:
    """The shipped trials of one situation with five seeds of each setting."""
    rows = read_store(SHIPPED).results
    mine = [r for r in rows if (r.spec.model, r.spec.task, r.spec.n_train) == ("small_cnn", "digits_shifted", 100)]
    grids = ("lora_ranks",)
    mine = [r for r in mine if r.status is Status.COMPLETE and r.provenance.get("grid") in grids]
    assert len(mine) > 150
    return mine


def poisoned(rows: list[TrialResult], seed: int, consistent: bool) -> tuple[list[TrialResult], set[str]]:
    """Return rows of which one in twenty has made-up scores, and which; ``consistent``: all the row says agrees."""
    rng = np.random.default_rng(seed)
    chosen = set(rng.choice(len(rows), round(0.05 * len(rows)), replace=False).tolist())
    found = []
    for number, row in enumerate(rows):
        if number not in chosen:
            found.append(row)
            continue
        score = float(rng.uniform(0, 1))
        metrics = {**row.metrics, "valid_score": score, "test_score": score}
        curve = row.curve
        if consistent:
            curve = (*row.curve[:-1], {**row.curve[-1], "valid_score": score})
            n_test = row.context["n_test"]
            wrong = round((1 - score) * n_test)
            metrics = {**metrics, "test_score": 1 - wrong / n_test, "wrong_by_class": [wrong]}
        found.append(replace(row, metrics=metrics, curve=curve))
    return found, {rows[number].trial_id for number in chosen}


def changed(rows: list[TrialResult], trial: str) -> float:
    """Return the test score of a row."""
    return next(float(row.metrics["test_score"]) for row in rows if row.trial_id == trial)


def moves(before: Recommendation, after: Recommendation) -> int:
    """Return by how many ranks the pick of before has moved."""
    pick = before.candidates[0].strategy
    return [own.strategy for own in after.candidates].index(pick)


@pytest.mark.parametrize("seed", range(6))
def test_scores_that_the_rest_of_their_row_contradicts_are_left_out(honest: list[TrialResult], seed: int) -> None:
    rows, bad = poisoned(honest, seed, consistent=False)
    left_out = {trial for trial, doubt in doubts(rows).items() if doubt.left_out}
    assert left_out == {r.trial_id for r in rows if r.trial_id in bad and r not in honest}
    assert moves(answer_of(honest), answer_of(rows)) <= 1


@pytest.mark.parametrize("seed", range(6))
def test_scores_that_agree_with_their_row_are_told_or_move_nothing(honest: list[TrialResult], seed: int) -> None:
    rows, bad = poisoned(honest, seed, consistent=True)
    before, after = answer_of(honest), answer_of(rows)
    told = {trial for own in after.candidates if own.estimate for trial in own.estimate.doubted}
    assert moves(before, after) <= 1 or told & bad
    found = doubts(rows)
    were = {row.trial_id: row.metrics["test_score"] for row in honest}
    far = {trial for trial in bad if abs(changed(rows, trial) - were[trial]) > 0.4}
    assert far, "some are"
    assert far <= set(found), "what is far off is told"


def test_honest_rows_are_not_left_out(honest: list[TrialResult]) -> None:
    assert not any(doubt.left_out for doubt in doubts(honest).values())


def test_a_seed_on_which_training_failed_stays() -> None:
    rows = [small.row(seed=seed, valid=score, test=score) for seed, score in enumerate((0.8, 0.82, 0.81, 0.79, 0.2))]
    (trial,) = doubts(rows)
    assert trial == rows[4].trial_id
    assert not doubts(rows)[trial].left_out
    assert "below the middle of its seeds" in doubts(rows)[trial].reason
