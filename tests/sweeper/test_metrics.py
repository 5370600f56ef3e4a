"""Metrics are what the libraries and the papers' formulas give for the same predictions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from sweeper.metrics import BINS, METRICS, calibration_error, macro_f1, rmse

classes = st.integers(2, 40).flatmap(lambda n: st.tuples(*[st.lists(st.integers(0, 4), min_size=n, max_size=n)] * 2))
number = st.floats(-1e3, 1e3).map(lambda value: round(value, 3))
numbers = st.integers(2, 40).flatmap(lambda n: st.tuples(*[st.lists(number, min_size=n, max_size=n)] * 2))


def compute(name: str, true: list[float], predicted: list[float]) -> float:
    function = METRICS[name].compute
    assert function is not None
    return function(true, predicted)


@given(classes)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_scores_of_classes(labels: tuple[list[int], list[int]]) -> None:
    true, predicted = (np.array(values) for values in labels)
    assert compute("accuracy", *labels) == pytest.approx(np.mean(true == predicted))
    recalls = [np.mean(predicted[true == label] == label) for label in np.unique(true)]
    assert compute("balanced_accuracy", *labels) == pytest.approx(np.mean(recalls))
    seen = np.union1d(true, predicted)
    f1 = [2 * np.sum((true == k) & (predicted == k)) / (np.sum(true == k) + np.sum(predicted == k)) for k in seen]
    assert macro_f1(*labels) == pytest.approx(np.mean(f1))
    assert compute("macro_f1", *labels) == pytest.approx(oracle.f1_score(*labels, average="macro", zero_division=0.0))
    assert compute("balanced_accuracy", *labels) == pytest.approx(oracle.balanced_accuracy_score(*labels))


@given(numbers)
def test_scores_of_numbers(labels: tuple[list[float], list[float]]) -> None:
    true, predicted = (np.array(values) for values in labels)
    assert rmse(*labels) == pytest.approx(np.sqrt(np.mean((true - predicted) ** 2)))
    assert compute("r2", *labels) == pytest.approx(oracle.r2_score(*labels))
    if np.var(true) > 0:
        by_hand = 1 - np.mean((true - predicted) ** 2) / np.var(true)
        assert compute("r2", *labels) == pytest.approx(by_hand, rel=1e-6, abs=1e-6)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1, exclude_min=True)), min_size=1, max_size=60))
def test_calibration_error_is_the_papers_sum_over_bins(rows: list[tuple[bool, float]]) -> None:
    right, sure = (np.array(column) for column in zip(*rows, strict=True))
    expected = 0.0
    for m in range(1, BINS + 1):
        # Guo et al. 2017, section 2: the m-th bin is ((m - 1) / M, m / M].
        mine = (np.ceil(sure * BINS) == m) | ((m == BINS) & (sure == 1))
        if mine.any():
            expected += mine.mean() * abs(right[mine].mean() - sure[mine].mean())
    assert calibration_error(right.tolist(), sure.tolist()) == pytest.approx(expected, abs=1e-9)


def test_calibration_error_of_known_cases() -> None:
    assert calibration_error([True, False], [1.0, 1.0]) == pytest.approx(0.5)
    assert calibration_error([True, False], [0.5, 0.5]) == pytest.approx(0.0)
    assert calibration_error([True] * 3 + [False], [0.9] * 4) == pytest.approx(0.15)
    assert calibration_error([True, False], [0.2, 0.21]) == pytest.approx(0.505), "3 / 15 ends its bin"
    assert calibration_error([], []) == 0
