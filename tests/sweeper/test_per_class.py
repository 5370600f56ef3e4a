"""Class by class: the scores are scikit-learn's, the trial is the typical one, old rows have their say."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from sweeper.per_class import as_json, class_scores, print_per_class, typical_trials
from sweeper.results import ResultsStore
from sweeper.spec import TrialResult
from sweeper.summary import summarise
from tests import small
from tests.conftest import Command

CONFUSION = [[3, 1], [2, 4]]


def with_confusion(row: TrialResult, confusion: list[list[int]] | None = None) -> TrialResult:
    return replace(row, metrics={**row.metrics, "confusion": confusion or CONFUSION})


def test_scores_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    true, predicted = rng.integers(0, 5, 60), rng.integers(0, 4, 60)
    true[true == 2] = 1  # a class without rows, and one that is never given
    confusion = confusion_matrix(true, predicted, labels=range(5)).tolist()
    expected = precision_recall_fscore_support(true, predicted, labels=range(5), zero_division=0.0)
    for k, scores in enumerate(class_scores(confusion)):
        found = (scores.precision, scores.recall, scores.f1, scores.rows)
        assert found == pytest.approx([column[k] for column in expected])


def test_the_best_setting_and_of_its_seeds_the_median() -> None:
    rows = [
        *(small.row(valid, rank=2, seed=seed) for seed, valid in enumerate((0.9, 0.1, 0.2))),
        *(small.row(valid, rank=4, seed=seed) for seed, valid in enumerate((0.6, 0.8, 0.5))),
        *(small.row(valid, rank=4, seed=seed, lr=1e-4) for seed, valid in enumerate((0.1, 0.1, 0.1))),
        small.row(0.99, rank=8, seed=0),  # one seed is not comparable with three
        *(small.row(valid, strategy="full", seed=seed) for seed, valid in enumerate((0.3, 0.7))),
    ]
    chosen = {trial.spec.strategy: trial for trial in typical_trials(summarise(rows))}
    assert (chosen["lora"].spec.hparams["rank"], chosen["lora"].spec.train.lr, chosen["lora"].spec.seed) == (4, 1e-2, 0)
    assert chosen["full"].spec.seed == 0, "the lower of two"


def test_a_narrow_terminal_does_without_the_matrix_and_says_so() -> None:
    wide, narrow = (Console(file=io.StringIO(), width=width) for width in (120, 32))
    for console in (wide, narrow):
        print_per_class([with_confusion(small.row())], console)
    assert "3  1" in wide.file.getvalue()  # type: ignore[attr-defined]
    text = narrow.file.getvalue()  # type: ignore[attr-defined]
    assert "left out for want of width" in text
    assert "3  1" not in text


def test_classes_go_by_their_names_where_they_have_some() -> None:
    made = with_confusion(small.row())
    made = replace(made, context={**made.context, "labels": ["[bold]un[/]kind", "kind"]})
    console = Console(file=io.StringIO(), width=120)
    print_per_class([made], console)
    assert "0 [bold]un[/]kind       60.0" in console.file.getvalue()  # type: ignore[attr-defined]
    assert as_json([made])[0]["labels"] == ["[bold]un[/]kind", "kind"]


def test_the_command_shows_new_rows_and_owns_up_for_old_ones(tmp_path: Path, command: Command) -> None:
    ResultsStore(tmp_path / "s", create=True).append([with_confusion(small.row()), small.row(strategy="full")])
    done = command("sweeper", "show", "--per-class", "--results", "s")
    assert done.returncode == 0, done.stderr
    assert "0       60.0    75.0  66.7     4  |  3  1" in done.stdout
    assert done.stdout.count("no confusion matrix stored") == 1
    done = command("sweeper", "show", "--per-class", "--results", "s", "--strategy", "lora", "--format", "json")
    (trial,) = json.loads(done.stdout)
    assert trial["confusion"] == CONFUSION
    assert trial["classes"][1] == {
        "precision": 0.8,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(8 / 11),
        "rows": 6,
    }
    assert as_json([small.row()])[0]["classes"] is None
    done = command("sweeper", "show", "--per-class", "--summary", "--results", "s")
    assert done.returncode == 2
    assert "ask for one" in done.stderr
