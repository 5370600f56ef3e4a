"""The advisor in scikit-learn's manners: `fit` on a frame of trials, `predict` for situations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from advisor.evidence import PACKAGED, load
from advisor.fit import fit
from advisor.recommend import Recommendation, recommend
from advisor.situation import Situation
from sweeper.results import Contents, from_frame
from sweeper.suggest import no_such

Situations = Sequence[Situation | Mapping[str, Any]] | pd.DataFrame
WHERE = "frame"
"""Stands where a file would name the store that trials are from."""


class Advisor(BaseEstimator):
    """Which strategy for which situation, learned from trials.

    Unlike a classifier it learns from trials and answers for situations, so what `fit` takes is not what `predict`
    takes: no cross-validation of scikit-learn applies. How good the advice is on tasks that were left out:
    `advisor.evaluate.evaluate`, or the command ``advisor evaluate``.

    Args:
        figures: Whether figures of others, those that ship with the package, stand beside the trials.

    Attributes:
        fitted_: What was learned; `advisor.fit.write` makes a file of it that the commands read.
        classes_: The strategies that were tried.
        n_trials_: How many complete trials it is learned from.
    """

    def __init__(self, figures: bool = True) -> None:
        self.figures = figures

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Learn from the rows of `sweeper.load_results()`; ``y`` is not looked at, scores are in the rows.

        Raises:
            ValueError: a column is missing, a row is not what its id says, or no trial is complete.
        """
        if not isinstance(X, pd.DataFrame):
            raise ValueError(
                f"fit takes the frame of sweeper.load_results(), got {type(X).__name__}: load the store with that"
            )
        rows = from_frame(X)
        shipped = load(PACKAGED) if self.figures else None
        others = (shipped.published, shipped.rates) if shipped else ((), ())
        self.fitted_ = fit(Contents(rows, [], {row.trial_id: WHERE for row in rows}), *others)
        tried = {setting.strategy for measured in self.fitted_.situations for setting in measured.settings}
        self.classes_ = np.array(sorted(tried), dtype=object)
        self.n_trials_ = self.fitted_.trials
        return self

    def predict(self, X: Situations) -> np.ndarray:  # noqa: N803
        """Return the name of the first strategy of each answer, ``(situations,)``."""
        return np.array([answer.candidates[0].strategy for answer in self.recommend(X)], dtype=object)

    def recommend(self, X: Situations) -> list[Recommendation]:  # noqa: N803
        """Return the whole answer for each situation.

        Args:
            X: Situations, or mappings or the rows of a frame with some of their fields; what is missing is unknown.

        Raises:
            sklearn.exceptions.NotFittedError: `fit` comes first.
            ValueError: a field is none of `Situation`, or what is said contradicts itself.
        """
        check_is_fitted(self)
        if isinstance(X, Situation | Mapping):
            raise ValueError(
                f"a {type(X).__name__} is no list: one situation is a list of one, for example predict([situation])"
            )
        rows = X.to_dict("records") if isinstance(X, pd.DataFrame) else X
        return [recommend(own if isinstance(own, Situation) else _situation(own), self.fitted_) for own in rows]


def _situation(own: Mapping[Any, Any]) -> Situation:
    """Return the situation of a mapping; a cell of a frame that is not there is unknown."""
    names = [f.name for f in fields(Situation)]
    known = {}
    for name, value in own.items():
        if name not in names:
            raise no_such("field of a situation", str(name), names)
        if value is not None and not pd.isna(value):
            known[name] = value.item() if isinstance(value, np.generic) else value
    if isinstance(known.get("n_train"), float):
        known["n_train"] = int(known["n_train"])  # a column with gaps
    for name in ("large", "similar"):
        if name in known:
            known[name] = bool(known[name])
    return Situation(**known)
