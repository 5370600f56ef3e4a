"""Promises of every shipped grid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sweeper.grid import Grid, load_grid, shipped_grids
from sweeper.models.base import UnavailableError
from sweeper.spec import TrialSpec
from sweeper.trial import LeftOut, check_all

every = pytest.mark.parametrize("name", shipped_grids())
BASELINES = {"full", "feature_extraction"}


def checked(grid: Grid) -> tuple[list[TrialSpec], list[LeftOut]]:
    """Return what `check_all` says; a test is skipped where nothing of a grid can run here, for want of a file."""
    try:
        return check_all(grid.trials)
    except UnavailableError as error:
        pytest.skip(str(error))


@every
def test_it_asks_a_question_and_its_trials_fit_their_models(name: str) -> None:
    grid = load_grid(name)
    assert grid.question.endswith("?")
    kept, left_out = checked(grid)
    assert kept
    assert len(kept) + sum(left.trials for left in left_out) == len(grid.trials), "nothing is silently absent"


@every
def test_equal_trials_appear_once(name: str) -> None:
    ids = [trial.trial_id for trial in load_grid(name).trials]
    assert len(ids) == len(set(ids))


@every
def test_the_comparison_is_fair(name: str) -> None:
    trials, _ = checked(load_grid(name))
    situations = {(t.model, t.task, t.n_train) for t in trials}
    for situation in situations:
        here = [t for t in trials if (t.model, t.task, t.n_train) == situation]
        assert BASELINES & {t.strategy for t in here}, "a baseline is part of the grid"
        # Each setting gets as many rates, a strategy its own ones where the grid takes its space; and all else alike.
        searches = {
            setting: sorted(
                (str(replace(t.train, lr=1.0)), t.seed) for t in here if (t.strategy, str(t.hparams)) == setting
            )
            for setting in {(t.strategy, str(t.hparams)) for t in here}
        }
        first = next(iter(searches.values()))
        assert all(search == first for search in searches.values()), "each setting gets the same search and seeds"
        assert len({t.train.steps for t in here}) == 1
        assert len({t.seed for t in here}) >= 3
        assert all(len({t.train.lr for t in here if t.strategy == s}) >= 2 for s in {t.strategy for t in here})
