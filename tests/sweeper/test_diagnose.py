"""Each diagnosis is made where it is due, and noise is not diagnosed."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sweeper import trial
from sweeper.diagnose import DIAGNOSES, _worth, diagnose, standard_error
from sweeper.results import read_store
from sweeper.spec import Status, TrialResult
from sweeper.summary import summarise
from sweeper.table import as_json, print_summary
from sweeper.tasks import TASKS, Split, TaskData
from tests import small

SHIPPED = Path(__file__).parents[2] / "results" / "shipped"
FACTS = {"n_valid": 400, "n_test": 400, "n_classes": 10, "n_smallest_class": 20, "chance_score": 0.1}


def row(curve: Sequence[tuple[float, ...]], facts: dict[str, Any] | None = None, **metrics: float) -> TrialResult:
    """Return a row with a curve of training loss, validation score and, if given, validation loss."""
    made = small.row(curve[-1][1], curve[-1][1])
    names = ("train_loss", "valid_score", "valid_loss")
    points = tuple(dict(zip(names, point, strict=False)) for point in curve)
    plain = {name: value for name, value in made.metrics.items() if not name.startswith("untouched")}
    return replace(made, curve=points, context={**made.context, **FACTS, **(facts or {})}, metrics={**plain, **metrics})


HEALTHY = [(2.0, 0.5, 1.5), (1.0, 0.7, 1.0), (0.5, 0.8, 0.8)]


@pytest.mark.parametrize(
    ("found", "made"),
    [
        ([], row(HEALTHY)),
        # The standard error of 0.8 and of 0.7 on 400 rows is 0.02 each: 2 of the two together are 0.06.
        (["overfitting"], row([(1.0, 0.8), (0.1, 0.7)])),
        ([], row([(1.0, 0.8), (0.1, 0.76)])),
        ([], row([(1.0, 0.8), (0.98, 0.7)])),  # not learned on: unstable
        (["overfitting"], row([(1.0, 0.8), (0.1, 0.76)], {"n_valid": 4000})),
        (["overfitting"], row([(1.0, 0.8, 0.6), (0.1, 0.8, 0.9)])),
        ([], row([(1.0, 0.8, 0.6), (0.1, 0.8, 0.65)])),
        ([], row([(1.0, 0.8, 0.6), (0.1, 0.82, 0.9)])),  # better, if too sure of itself
        (["overfitting"], row([(1.0, 0.3, 1.2), (0.1, 0.29, 1.9)], {"metric": "inverse_perplexity"})),
        (["at_chance"], row([(2.3, 0.1), (2.3, 0.12)])),
        ([], row([(2.3, 0.1), (2.2, 0.15)])),
        (["collapse"], row([(2.0, 0.4), (2.3, 0.1)])),
        (["collapse"], row([(2.3, 0.1), (2.3, 0.1)], untouched_test_score=0.6)),
        (["at_chance"], row([(1.0, -0.1), (1.0, -0.01)], {"metric": "r2", "chance_score": 0.0})),
        ([], row([(1.0, 0.0), (0.5, 0.3)], {"metric": "r2", "chance_score": 0.0})),
        (["forgetting"], row(HEALTHY, untouched_source_test_score=0.9, source_test_score=0.8)),
        ([], row(HEALTHY, untouched_source_test_score=0.9, source_test_score=0.87)),
        ([], row(HEALTHY, {"n_source_test": 30}, untouched_source_test_score=0.9, source_test_score=0.8)),
        (["leakage"], row(HEALTHY, {"shared_rows": 9})),
        ([], row(HEALTHY, {"shared_rows": 8})),
        (["leakage"], row(HEALTHY, test_score=0.6)),
        ([], row(HEALTHY, test_score=0.7)),
        (["leakage"], row([(1.0, 0.99), (0.1, 1.0)], {"knn_score": 0.2, "probe_score": 0.5})),
        ([], row([(1.0, 0.99), (0.1, 1.0)], {"knn_score": 0.2, "probe_score": 0.9})),
        (["too_few_labels"], row(HEALTHY, {"n_smallest_class": 7})),
        ([], row(HEALTHY, {"n_smallest_class": 7, "work": "tagging"})),
        (["divergence"], replace(row(HEALTHY), status=Status.DIVERGED, metrics={}, curve=())),
        ([], replace(row(HEALTHY), status=Status.FAILED, metrics={}, curve=())),
    ],
)
def test_a_row_shows_what_is_wrong_and_nothing_else(found: list[str], made: TrialResult) -> None:
    assert diagnose(made) == found


def test_standard_errors_are_what_resampling_gives() -> None:
    rng = np.random.default_rng(0)
    shares = rng.binomial(200, 0.7, 20_000) / 200
    assert standard_error(0.7, 200, "accuracy") == pytest.approx(shares.std(), rel=0.02)
    x = rng.normal(size=(5_000, 200))
    y = x * math.sqrt(0.6) + rng.normal(size=x.shape) * math.sqrt(0.4)
    r2 = np.array([np.corrcoef(a, b)[0, 1] ** 2 for a, b in zip(x, y, strict=True)])
    assert standard_error(0.6, 200, "r2") == pytest.approx(r2.std(), rel=0.05)
    # A gamma of shape 1/4 spreads twice as widely as its mean is large.
    losses = rng.gamma(1 / 4, 4 * 0.5, (5_000, 200)).mean(1)
    assert standard_error(math.exp(-0.5), 200, "inverse_perplexity") == pytest.approx(np.exp(-losses).std(), rel=0.1)
    assert standard_error(0.0, 200, "inverse_perplexity") is None


def test_few_of_the_shipped_trials_raise_an_alarm_that_they_should_not() -> None:
    # As of now: older rows hold what was made of them then.
    found = [(row, diagnose(row)) for row in read_store(SHIPPED).results if row.curve]
    assert not any("leakage" in names for _, names in found), "these splits share nothing"
    # Evidence goes to rates that are too high on purpose, with thirty passes over 32 texts.
    far = [names for row, names in found if str(row.provenance.get("grid")).startswith("evidence_")]
    assert sum("overfitting" in names for names in far) < 0.1 * len(far)
    near = [(row, names) for row, names in found if not str(row.provenance.get("grid")).startswith("evidence_")]
    assert sum("overfitting" in names for _, names in near) < 0.01 * len(near), "at these few steps"
    rates_of_collapse = [row.spec.train.lr for row, names in near if "collapse" in names]
    assert sum(rate >= 0.03 for rate in rates_of_collapse) > 0.9 * len(rates_of_collapse), "too high a rate"


def test_a_mean_over_classes_varies_with_the_rare_ones() -> None:
    rng = np.random.default_rng(0)
    classes = np.array([160, 30, 10])
    draws = rng.binomial(classes, 0.7, (20_000, 3)) / classes
    confusion = [[160, 0, 0], [0, 30, 0], [0, 0, 10]]
    row = small.row()
    row = replace(row, metrics={**row.metrics, "confusion": confusion})
    rows = round(200 * _worth(row, "balanced_accuracy"))
    assert standard_error(0.7, rows, "balanced_accuracy") == pytest.approx(draws.mean(1).std(), rel=0.1)
    assert _worth(row, "accuracy") == 1


class Leaky:
    """Digits whose validation rows were trained on."""

    name, summary, metric, n_train = "leaky", "", "accuracy", 40

    def load(self, seed: int, n_train: int) -> TaskData:
        data = TASKS[small.TASK].load(seed, n_train)
        copied, test = data.splits["train"], data.splits["test"]
        splits = {"train": copied, "valid": Split(copied.x.clone(), copied.y.clone()), "test": test}
        return TaskData(splits, 10, context=data.context)


def test_rows_that_stand_on_both_sides_are_found_from_file_to_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "leaky", Leaky())
    (made,) = trial.run_pack([replace(small.spec("full"), task="leaky")], {})
    assert made.context["shared_rows"] == 40
    assert made.metrics["diagnoses"] == ["at_chance", "leakage", "too_few_labels"]
    out = io.StringIO()
    print_summary(summarise([made]), Console(file=out, width=200))
    assert "A1 L1 T1" in out.getvalue()
    assert DIAGNOSES["leakage"].fix in " ".join(out.getvalue().split())
    (line,) = as_json(summarise([made]))
    assert line["diagnoses"]["leakage"]["seeds"] == 1


def test_tables_of_older_rows_are_as_they_were_but_json_has_what_can_be_told() -> None:
    out = io.StringIO()
    old = replace(row([(2.3, 0.1), (2.3, 0.1)]), context={**small.row().context, "n_classes": 10, "n_valid": 400})
    print_summary(summarise([old]), Console(file=out, width=200))
    assert "signs" not in out.getvalue()
    assert list(as_json(summarise([old]))[0]["diagnoses"]) == ["at_chance", "too_few_labels"]


def test_divergence_is_counted_over_the_rates_that_were_thrown_away() -> None:
    healthy = row(HEALTHY, **{"diagnoses": []})  # type: ignore[arg-type]
    wild = replace(small.row(lr=1.0), status=Status.DIVERGED, metrics={"diagnoses": ["divergence"]}, curve=())
    (line,) = summarise([healthy, wild])
    assert line.diagnoses() == {"divergence": 1}
