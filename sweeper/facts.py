"""Facts about a task and a model that advice may depend on: what the rows are like, and what frozen features tell."""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from sweeper.cache import cache_folder, digest_of
from sweeper.metrics import METRICS
from sweeper.models.base import LoadedModel
from sweeper.tasks.base import Split, TaskData
from sweeper.work import CLASSIFICATION, GENERATION, IGNORED, REGRESSION, TAGGING

# Part of the key: raise it when a change here changes a number.
RECIPE = 1
# What bounds the cost: rows that are looked at, and tokens of them where every token has a label.
MOST_TRAIN, MOST_VALID, MOST_TOKENS = 600, 400, 1000
BATCH = 64
NEIGHBOURS = 5
CLEARLY = 4
"""Of 5 neighbours, how many must agree on another class for a label to count as doubtful."""
TINY = 1e-12
PENALTIES = tuple(10.0**power for power in range(-1, 6))


def task_facts(model: LoadedModel, data: TaskData, metric: str, wait: bool = True) -> dict[str, Any]:
    """Return facts of the rows, and how well the features of a model as loaded tell them apart.

    Args:
        model: As loaded: nothing is widened or trained yet.
        data: The task's final rows, as the model reads them.
        metric: The task's.
        wait: For another process that measures the same.

    Raises:
        filelock.Timeout: another process does, and this one is not to wait.
    """
    return {**row_facts(data, metric), **feature_facts(model, data, metric, wait)}


def row_facts(data: TaskData, metric: str) -> dict[str, Any]:
    """Return what can be counted in the rows: sizes, balance, what chance gets, rows that splits share."""
    train, valid = data.splits["train"], data.splits["valid"]
    facts: dict[str, Any] = {}
    if "source_test" in data.splits:
        facts["n_source_test"] = len(data.splits["source_test"])
    if train.texts:
        facts["mean_words"] = round(float(np.mean([len(_words(text)) for text in train.texts])), 2)
    elif train.x.dim() == 4:
        facts["side"] = int(max(train.x.shape[2:]))
    else:
        facts["n_features"] = int(train.x[0].numel())
    known = set(_keys(train))
    facts["shared_rows"] = sum(key in known for name in ("valid", "test") for key in _keys(data.splits[name]))
    if data.work == CLASSIFICATION:
        counts = torch.bincount(train.y, minlength=data.n_classes)
        facts["n_smallest_class"] = int(counts.min())
        if counts.min() > 0:
            facts["imbalance"] = float(counts.max() / counts.min())
        facts["chance_score"] = _score(metric, valid.y.numpy(), np.full(len(valid), int(counts.argmax())))
    elif data.work == REGRESSION:
        facts["chance_score"] = _score(metric, valid.y.numpy(), np.full(len(valid), float(train.y.mean())))
    elif data.work == TAGGING:
        facts["chance_score"] = 0.0  # with the most frequent tag everywhere no entity is found
    return facts


def _words(text: Any) -> list[str]:
    """Return the words of a text, of a pair of texts, or of what comes in words."""
    return [word for part in ([text] if isinstance(text, str) else text) for word in str(part).split()]


def _keys(split: Split) -> Iterable[bytes]:
    """Return what each row's input is; of texts, but for signs and capitals."""
    if not split.texts:
        return (x.numpy().tobytes() for x in split.x)
    texts = (" ".join(_words(text)).lower() for text in split.texts)
    return ((" ".join(re.findall(r"\w+", text)) or text).encode() for text in texts)


def feature_facts(model: LoadedModel, data: TaskData, metric: str, wait: bool = True) -> dict[str, Any]:
    """Return what frozen features tell of the labels: k-NN and linear-probe score, LogME, doubtful labels.

    Measured on a bounded sample of training and validation rows, once for the same weights and rows: kept in
    the cache. Nothing for generation, whose untouched model has a score of its own.
    """
    if data.work == GENERATION:
        return {}
    train, valid = _sample(data.splits["train"], MOST_TRAIN), _sample(data.splits["valid"], MOST_VALID)
    rows = [("x", train.x), ("y", train.y), ("valid x", valid.x), ("valid y", valid.y)]
    weights = sorted(model.network.state_dict().items())
    key = digest_of(json.dumps([RECIPE, data.work, metric]), [*weights, *rows])
    folder = cache_folder() / "facts"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{key}.json"
    with FileLock(folder / f"{key}.lock", timeout=-1 if wait else 0):
        try:
            facts = json.loads(file.read_text(encoding="utf-8"))
            if isinstance(facts, dict):
                return facts
        except (OSError, ValueError):
            pass  # a cache is only a cache: what is not there, or cannot be read, is measured
        facts = _measure(model, train, valid, data, metric)
        temporary = folder / f"{key}.{secrets.token_hex(4)}.tmp"
        temporary.write_text(json.dumps(facts), encoding="utf-8")
        temporary.replace(file)
        return facts


def _sample(split: Split, most: int) -> Split:
    """Return rows of a split, spread evenly over it; texts of like length side by side, to need little padding."""
    index = torch.linspace(0, len(split) - 1, min(most, len(split))).round().long()
    if split.texts:
        index = index[torch.tensor([len(_words(split.texts[row])) for row in index]).argsort(stable=True)]
    return split.rows(index)


def _measure(model: LoadedModel, train: Split, valid: Split, data: TaskData, metric: str) -> dict[str, Any]:
    x, y = _features(model, train, data.work)
    x_valid, y_valid = _features(model, valid, data.work)
    if data.work == TAGGING:
        metric = "accuracy"  # of tokens: features are looked at one by one
    if not (np.isfinite(x).all() and np.isfinite(x_valid).all()) or len(x) < 2 or y.std() == 0:
        return {}
    facts = {
        "knn_score": _score(metric, y_valid, _neighbours(x, y, x_valid, data.work)),
        "probe_score": _score(metric, y_valid, _probe(x, y, x_valid, data.work)),
        "logme": log_evidence(x, y[:, None] if data.work == REGRESSION else y[:, None] == np.unique(y)),
    }
    if data.work != REGRESSION:
        facts["label_noise"] = doubtful(x, y)
    if data.work == TAGGING:
        most_frequent = np.full(len(y_valid), np.bincount(y).argmax())
        facts["chance_token_score"] = _score(metric, y_valid, most_frequent)
    return {name: float(value) for name, value in facts.items() if math.isfinite(value)}


def _score(metric: str, true: np.ndarray, predicted: np.ndarray) -> float:
    compute = METRICS[metric].compute
    assert compute is not None
    return compute(true.tolist(), predicted.tolist())


@torch.inference_mode()
def _features(model: LoadedModel, split: Split, work: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what the pretrained part of a network puts out, a row (or token) a line, and the labels."""
    # What comes without pretrained weights before the head would only blur what the head is to read.
    head = next(iter(model.before_head), model.head) if model.head_is_fresh else model.head
    alone = replace(model, head=head, seeds=model.seeds[:1])
    device = next(model.network.parameters()).device
    found, labels, room = [], [], MOST_TOKENS
    for start in range(0, len(split), BATCH):
        y = split.y[start : start + BATCH]
        features = alone.features_and_logits(split.x[start : start + BATCH].to(device))[0][0].double().cpu()
        if work == TAGGING:
            y = y[:, : features.shape[1]]
            counted = (y != IGNORED).nonzero()[:room]
            features, y = features[counted[:, 0], counted[:, 1]], y[counted[:, 0], counted[:, 1]]
            room -= len(y)
        elif features.dim() == 3:
            features = features[:, -1]  # decoders are padded on the left: the last token has seen all others
        found.append(features)
        labels.append(y)
        if room <= 0:
            break
    return torch.cat(found).flatten(1).numpy(), torch.cat(labels).numpy()


def _neighbours(x: np.ndarray, y: np.ndarray, x_valid: np.ndarray, work: str) -> np.ndarray:
    """Return what the nearest training rows say, by cosine."""
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    kind = KNeighborsRegressor if work == REGRESSION else KNeighborsClassifier
    return kind(min(NEIGHBOURS, len(x)), metric="cosine").fit(x, y).predict(x_valid)


def _probe(x: np.ndarray, y: np.ndarray, x_valid: np.ndarray, work: str) -> np.ndarray:
    """Return what a ridge on standardised features says, its penalty chosen on the training rows left out in turn."""
    from sklearn.linear_model import RidgeClassifierCV, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kind = RidgeCV if work == REGRESSION else RidgeClassifierCV
    return make_pipeline(StandardScaler(), kind(PENALTIES)).fit(x, y).predict(x_valid)


def doubtful(x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of rows whose neighbours clearly agree on another class.

    Edited nearest neighbours (Wilson 1972, IEEE Trans. SMC 2(3)), with 4 of 5 neighbours for a majority. Where
    features tell the classes badly apart, neighbours are wrong as well: an upper estimate of label noise then.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(x) <= NEIGHBOURS:
        return 0.0
    finder = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine").fit(x)
    votes = y[finder.kneighbors(return_distance=False)]  # of the rows it was fitted on: each without itself
    agree = (votes[:, :, None] == votes[:, None, :]).sum(2)
    winner, backing = votes[np.arange(len(y)), agree.argmax(1)], agree.max(1)
    return float(np.mean((winner != y) & (backing >= CLEARLY)))


def log_evidence(x: np.ndarray, targets: np.ndarray, rounds: int = 200) -> float:
    """Return LogME: the log evidence per row of a Bayesian linear model from features to targets, their mean.

    Weights have the precision alpha, noise beta; both are found by the fixed-point iteration of You et al. 2021
    (arXiv 2102.11005, algorithm 1).

    Args:
        x: Features ``(rows, width)``.
        targets: Numbers ``(rows, n)``; of classes, whether a row is of each.
        rounds: Of the iteration, at most.
    """
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    return float(np.mean([_evidence(s**2, u.T @ y, float(y @ y), len(x), rounds) for y in targets.T.astype(float)]))


def _evidence(squares: np.ndarray, z: np.ndarray, length: float, n: int, rounds: int) -> float:
    """Return the evidence of one target, given in the basis of the singular vectors, of which these are the squares."""
    beside = max(0.0, length - float(z @ z))  # the part of the target that no weights reach
    ratio = alpha = beta = 1.0  # ratio is alpha / beta
    for _ in range(rounds):
        gamma = float((squares / (squares + ratio)).sum())
        weights = float((squares * z**2 / (squares + ratio) ** 2).sum())
        residual = float((ratio**2 * z**2 / (squares + ratio) ** 2).sum()) + beside
        alpha, beta = max(gamma, TINY) / max(weights, TINY), max(n - gamma, TINY) / max(residual, TINY)
        before, ratio = ratio, alpha / beta
        if abs(ratio - before) <= 1e-6 * before:
            break
    spread = float(np.log1p(squares / ratio).sum())
    return (n * math.log(beta) - spread - beta * residual - alpha * weights - n * math.log(2 * math.pi)) / (2 * n)
