"""What is measured of rows and frozen features, against slow and plain ways to get the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.datasets import load_digits
from torch import nn

from sweeper import facts
from sweeper.models.base import LoadedModel
from sweeper.outcome import next_command
from sweeper.results import ResultsStore
from sweeper.spec import TrialResult
from sweeper.summary import summarise, transfer
from sweeper.tasks import Split, TaskData
from sweeper.work import IGNORED, REGRESSION, TAGGING
from tests import small


@pytest.mark.parametrize(("rows", "width"), [(40, 3), (30, 12), (20, 25)])
def test_the_evidence_is_the_greatest_that_any_precisions_give(rows: int, width: int) -> None:
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, width))
    y = x[:, :2] @ [1.0, -0.5] + rng.normal(size=rows)

    def negative(logs: np.ndarray) -> float:
        alpha, beta = np.exp(np.clip(logs, -25, 25))
        return -multivariate_normal(np.zeros(rows), np.eye(rows) / beta + x @ x.T / alpha).logpdf(y) / rows

    slow = min(minimize(negative, start, method="Nelder-Mead").fun for start in ([0.0, 0.0], [2.0, -1.0]))
    assert facts.log_evidence(x, y[:, None]) == pytest.approx(-slow, abs=2e-4)


def test_features_that_say_nothing_are_facts_too() -> None:
    model = small.model("mlp", [0])
    with torch.no_grad():
        for p in model.network.parameters():
            p.zero_()
    found = facts.feature_facts(model, small.data(), "accuracy")
    assert max(found["knn_score"], found["probe_score"]) < 0.2
    json.dumps(found, allow_nan=False)
    with torch.no_grad():
        model.network.get_parameter("blocks.0.0.weight").fill_(torch.nan)
    assert facts.feature_facts(model, small.data(), "accuracy") == {}


def test_doubtful_labels_are_about_the_wrong_ones() -> None:
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    x, y = x[:600], y[:600]
    assert facts.doubtful(x, y) < 0.02
    wrong = rng.random(len(y)) < 0.1
    y = np.where(wrong, (y + rng.integers(1, 10, len(y))) % 10, y)
    assert facts.doubtful(x, y) == pytest.approx(wrong.mean(), abs=0.03)


def digits(x: torch.Tensor | None = None) -> TaskData:
    data = small.data(n_train=100)
    return data if x is None else TaskData({**data.splits, "train": Split(x, data.splits["train"].y)}, 10)


def test_facts_are_measured_once_and_again_if_the_cache_is_damaged_or_anything_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path))
    measured = []
    original = facts._measure
    monkeypatch.setattr(facts, "_measure", lambda *args: measured.append(1) or original(*args))
    model, data = small.model("mlp", [0, 1]), digits()
    first = facts.feature_facts(model, data, "accuracy")
    assert facts.feature_facts(small.model("mlp", [1]), data, "accuracy") == first, "seeds of members do not matter"
    assert len(measured) == 1
    (file,) = tmp_path.glob("facts/*.json")
    for damage in ("{", "[]", "\x00", "null"):
        file.write_text(damage)
        assert facts.feature_facts(model, data, "accuracy") == first
    assert len(measured) == 5
    assert json.loads(file.read_text()) == first
    with torch.no_grad():
        model.get("blocks.0").get_parameter("0.weight").add_(0.1)
    facts.feature_facts(model, data, "accuracy")
    facts.feature_facts(model, digits(1 - data.splits["train"].x), "accuracy")
    assert len(measured) == 7
    assert not [*tmp_path.glob("facts/*.tmp")]


def test_features_that_tell_the_classes_score_high_and_labels_by_lot_at_chance() -> None:
    data, model = small.data(n_train=300), small.model("mlp", [0])
    told = facts.feature_facts(model, data, "accuracy")
    rng = torch.Generator().manual_seed(0)
    lots = {
        name: Split(split.x, split.y[torch.randperm(len(split), generator=rng)]) for name, split in data.splits.items()
    }
    by_lot = facts.feature_facts(model, TaskData(lots, 10), "accuracy")
    assert min(told["knn_score"], told["probe_score"]) > 0.5
    assert max(by_lot["knn_score"], by_lot["probe_score"]) < 0.2
    assert told["logme"] > by_lot["logme"]
    assert told["label_noise"] < 0.1


def test_rows_are_counted() -> None:
    def split(*rows: tuple[str, int]) -> Split:
        return Split(torch.empty(len(rows), 0), torch.tensor([y for _, y in rows]), tuple(text for text, _ in rows))

    train = split(("a b c", 0), ("d e", 0), ("f", 0), ("...", 1))
    data = TaskData({"train": train, "valid": split(("A, b: C!", 0), ("!!!", 1)), "test": split(("d e f", 0))}, 2)
    assert facts.row_facts(data, "accuracy") == {
        "mean_words": 1.75,
        "shared_rows": 1,
        "n_smallest_class": 1,
        "imbalance": 3.0,
        "chance_score": 0.5,
    }


class Table(nn.Module):
    """Two features for each of ten tokens, and a head on each token."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 2), nn.Linear(2, n)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(ids[:, :4]))


def test_tokens_are_looked_at_one_by_one() -> None:
    model = LoadedModel(Table(2), "head", (), (), {}, work=TAGGING)
    with torch.no_grad():
        model.network.embedding.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 5))  # even, odd
    rng = torch.Generator().manual_seed(0)
    splits = {}
    for name in ("train", "valid", "test"):
        ids = torch.randint(0, 10, (400, 6), generator=rng)
        y = ids % 2
        y[:, 3:] = IGNORED
        splits[name] = Split(ids, y)
    found = facts.feature_facts(model, TaskData(splits, 2, work=TAGGING), "accuracy")
    assert (found["knn_score"], found["probe_score"], found["label_noise"]) == (1.0, 1.0, 0.0)
    assert 0.4 < found["chance_token_score"] < 0.6


def test_numbers_are_told_by_their_own_score() -> None:
    class Identity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x)

    rng = torch.Generator().manual_seed(0)
    splits = {}
    for name in ("train", "valid", "test"):
        x = torch.randn(200, 3, generator=rng)
        splits[name] = Split(x, x @ torch.tensor([1.0, 2.0, 0.0]) + 0.1 * torch.randn(200, generator=rng))
    data = TaskData(splits, 1, work=REGRESSION)
    found = facts.task_facts(LoadedModel(Identity(), "head", (), (), {}, work=REGRESSION), data, "r2")
    assert found["probe_score"] > 0.99
    assert 0.5 < found["knn_score"] < found["probe_score"]
    assert abs(found["chance_score"]) < 0.05
    assert found["n_features"] == 3


def test_layers_without_pretrained_weights_are_not_looked_through() -> None:
    model = small.model("mlp", [0])
    model.before_head = ("blocks.2.0",)
    split = small.data().splits["valid"]
    assert facts._features(model, split, "classification")[0].shape == (len(split), 32)
    model.head_is_fresh = True
    assert facts._features(model, split, "classification")[0].shape == (len(split), 64)


def test_a_decoders_features_are_what_its_head_answers_from() -> None:
    pytest.importorskip("transformers")
    from tests import families

    model, split = families.FAMILIES["gpt2"]((1, 8, 8), 10, 0), small.data().splits["train"]
    read, _ = facts._features(model, split, "classification")
    torch.testing.assert_close(model.get(model.head)(torch.tensor(read).float()), model.logits(split.x)[0])


@pytest.mark.parametrize(("probe", "flag"), [(0.97, "--task-similar"), (0.8, "--task-different"), (None, "")])
def test_what_to_type_next_says_whether_the_task_is_similar(probe: float | None, flag: str, tmp_path: Path) -> None:
    made = small.row()
    known = {} if probe is None else {"probe_score": probe, "chance_score": 0.5}
    metrics = {name: value for name, value in made.metrics.items() if not name.startswith("untouched")}
    row = TrialResult(made.spec, made.status, metrics, made.curve, {**made.context, **known})
    command, why = next_command(ResultsStore(tmp_path / "s", create=True), summarise([row]))
    assert command.endswith(flag or "--modality image")
    assert why.startswith(f"{flag}: frozen features of mlp go" if flag else "")


def test_how_far_features_go_is_counted_from_chance() -> None:
    def row(**known: Any) -> TrialResult:
        made = small.row()
        return TrialResult(made.spec, made.status, made.metrics, made.curve, {**made.context, **known})

    assert transfer(summarise([row(knn_score=0.6, probe_score=0.75, chance_score=0.5)])) == pytest.approx(0.5)
    assert transfer(summarise([row(knn_score=0.1, probe_score=0.2, chance_score=0.5)])) == 0
    assert transfer(summarise([row()])) is None
