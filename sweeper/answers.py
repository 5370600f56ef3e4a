"""What each member of a pack says of rows, and how well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sweeper import generation
from sweeper.metrics import (
    METRICS,
    calibration_error,
    entity_precision,
    entity_recall,
    macro_f1,
    rmse,
    token_accuracy,
)
from sweeper.models.base import LoadedModel
from sweeper.tasks.base import Split, TaskData
from sweeper.work import CLASSIFICATION, GENERATION, IGNORED, REGRESSION, TAGGING, WORK

EVAL_ROWS = 512
TESTS = ("test", "source_test", "shifted_test")
MOST_CLASSES = 50
"""Up to as many a row holds the confusion matrix: beyond, it would be longer than all the rest."""


@dataclass(frozen=True)
class Predicted:
    """What one member says of a split.

    Attributes:
        true: As `sweeper.metrics.Metric.compute` takes it: class numbers, numbers, or rows of tag names; for
            generation the ids of the answers' tokens.
        predicted: The same as the model has it; for generation the loss of each of those tokens.
        confidence: For classification, the probability of the predicted class.
        loss: Mean over rows, or over tokens.
    """

    true: list[Any]
    predicted: list[Any]
    confidence: list[float]
    loss: float


def predict(model: LoadedModel, splits: Sequence[Split]) -> list[Predicted]:
    """Return what each member says of its own split; all splits have the same length."""
    work = WORK[model.work]
    device = next(model.network.parameters()).device
    # A language model puts out its whole vocabulary for each token.
    rows = max(1, EVAL_ROWS // (16 if model.work == GENERATION else 1) // len(splits))
    parts = []
    activations = [] if model.prefix is None else [model.prefix.of(split) for split in splits]
    # Scored rows must not enter running statistics, nor be dropped out.
    training = [module for module in model.network.modules() if module.training]
    model.network.eval()
    with torch.inference_mode():
        for start in range(0, len(splits[0]), rows):
            x = torch.cat([split.x[start : start + rows] for split in splits]).to(device)
            y = torch.stack([split.y[start : start + rows] for split in splits])
            some = [own[start : start + rows] for own in activations if own is not None]
            if model.prefix is not None and len(some) == len(splits):
                model.prefix.remember(x, torch.cat(some).to(device))
            parts.append(work.keep(model.logits(x), y.to(device)).cpu())
    for module in training:
        module.training = True
    kept = torch.cat(parts, dim=1)
    # A diverged member answers something, so that the others of its pack are scored; its loss tells.
    kept[..., :-1].nan_to_num_()
    return [_predicted(model, split.y, own) for split, own in zip(splits, kept, strict=True)]


def _predicted(model: LoadedModel, y: Tensor, kept: Tensor) -> Predicted:
    """Return what one member says, from labels ``(rows, ...)`` and what was kept ``(rows, ..., k)``."""
    counted = y != IGNORED
    losses = kept[..., -1][counted]
    loss = float(losses.double().mean())
    if model.work == GENERATION:
        return Predicted(y[counted].tolist(), losses.tolist(), [], loss)
    if model.work == TAGGING:
        names = model.labels or [str(number) for number in range(int(y.max()) + 1)]
        true, predicted = (
            [[names[int(number)] for number in row[mask]] for row, mask in zip(found, counted, strict=True)]
            for found in (y, kept[..., 0])
        )
        return Predicted(true, predicted, [], loss)
    if model.work == REGRESSION:
        return Predicted(y.tolist(), kept[..., 0].tolist(), [], loss)
    return Predicted(y.tolist(), kept[..., 0].long().tolist(), kept[..., 1].tolist(), loss)


def score(metric: str, model: LoadedModel, splits: Sequence[Split]) -> list[float]:
    """Return each member's score on its own split."""
    compute = METRICS[metric].compute
    assert compute is not None
    return [compute(member.true, member.predicted) for member in predict(model, splits)]


def test_scores(prefix: str, metric: str, model: LoadedModel, data: TaskData) -> list[dict[str, Any]]:
    """Return each member's scores on the test rows of target, source and shift, names prefixed."""
    compute = METRICS[metric].compute
    assert compute is not None
    found: list[dict[str, Any]] = [{} for _ in range(model.members)]
    for name in TESTS:
        split = data.splits.get(name)
        if split is None:
            continue
        for scores, member in zip(found, predict(model, [split] * model.members), strict=True):
            scores[f"{prefix}{name}_score"] = compute(member.true, member.predicted)
            if name == "test":
                scores.update(MORE_SCORES[data.work](prefix, member, data))
    if data.work == GENERATION and prefix != "off_":  # switched off, it is as before training
        for scores, texts in zip(found, generation.text_scores(prefix, model, data.splits["test"]), strict=True):
            scores.update(texts)
    return found


def _of_classes(prefix: str, found: Predicted, data: TaskData) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    if data.n_classes <= MOST_CLASSES:
        scores[f"{prefix}wrong_by_class"] = wrong_by_class(found, data)
    if not prefix:
        scores["test_macro_f1"] = macro_f1(found.true, found.predicted)
        right = [true == predicted for true, predicted in zip(found.true, found.predicted, strict=True)]
        scores["test_calibration_error"] = calibration_error(right, found.confidence)
        if data.n_classes <= MOST_CLASSES:
            scores["confusion"] = _confusion(found, data.n_classes)
    return scores


def _of_numbers(prefix: str, found: Predicted, data: TaskData) -> dict[str, Any]:
    return {f"{prefix}test_rmse": data.unit * rmse(found.true, found.predicted)}


def _of_tags(prefix: str, found: Predicted, data: TaskData) -> dict[str, Any]:
    if prefix:
        return {}
    words = sum(len(row) for row in data.splits["test"].texts)
    scores = {
        "test_token_accuracy": token_accuracy(found.true, found.predicted),
        "test_words_cut": words - sum(len(row) for row in found.true),
    }
    if any(label.startswith("B-") for label in data.labels):
        scores["test_precision"] = entity_precision(found.true, found.predicted)
        scores["test_recall"] = entity_recall(found.true, found.predicted)
    return scores


def _of_texts(prefix: str, found: Predicted, data: TaskData) -> dict[str, Any]:
    perplexity = generation.perplexity(found.loss)
    return {} if perplexity is None else {f"{prefix}test_perplexity": perplexity}


# What is told of the test rows besides the task's own score.
MORE_SCORES: dict[str, Callable[[str, Predicted, TaskData], dict[str, Any]]] = {
    CLASSIFICATION: _of_classes,
    REGRESSION: _of_numbers,
    TAGGING: _of_tags,
    GENERATION: _of_texts,
}


def wrong_by_class(found: Predicted, data: TaskData) -> list[int]:
    """Return how many rows of each class were given another."""
    true = torch.tensor(found.true)
    return torch.bincount(true[torch.tensor(found.predicted) != true], minlength=data.n_classes).tolist()


def _confusion(found: Predicted, n_classes: int) -> list[list[int]]:
    """Return how many rows of each true class (first index) were given each class (second index)."""
    cell = torch.tensor(found.true) * n_classes + torch.tensor(found.predicted)
    return torch.bincount(cell, minlength=n_classes**2).view(n_classes, n_classes).tolist()
