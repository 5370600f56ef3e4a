"""Every number of a row: what it means, its unit, and which direction is better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

Labels = Sequence[Any]


@dataclass(frozen=True)
class Metric:
    """What a number in a row means.

    ``compute`` is there for scores of predictions alone: ``compute(true labels, predicted labels)``.
    """

    meaning: str
    unit: str
    better: Literal["higher", "lower"] | None
    compute: Callable[[Labels, Labels], float] | None = None


def _accuracy(true: Labels, predicted: Labels) -> float:
    import numpy as np

    return float(np.mean(np.asarray(true) == np.asarray(predicted)))


def _balanced_accuracy(true: Labels, predicted: Labels) -> float:
    from sklearn.metrics import balanced_accuracy_score

    return float(balanced_accuracy_score(true, predicted))


def macro_f1(true: Labels, predicted: Labels) -> float:
    """Return the mean of F1 over the classes that occur, or are predicted."""
    import numpy as np  # scikit-learn's takes milliseconds a trial, most of it to check its arguments

    classes, numbers = np.unique([*true, *predicted], return_inverse=True)
    right, given = numbers[: len(true)], numbers[len(true) :]
    both = np.bincount(right[right == given], minlength=len(classes))
    return float(np.mean(2 * both / np.bincount(numbers, minlength=len(classes))))


def _r2(true: Labels, predicted: Labels) -> float:
    from sklearn.metrics import r2_score

    return float(r2_score(true, predicted))


def rmse(true: Labels, predicted: Labels) -> float:
    """Return the root of the mean squared error."""
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(true, predicted))


def _entities(score: str, true: Labels, predicted: Labels) -> float:
    from seqeval import metrics

    # The default mode, as conlleval: an I- that follows nothing of its type begins an entity.
    return float(getattr(metrics, score)(true, predicted, average="micro", zero_division=0))


def _entity_f1(true: Labels, predicted: Labels) -> float:
    return _entities("f1_score", true, predicted)


def entity_precision(true: Labels, predicted: Labels) -> float:
    """Return the share of predicted entities that are right in type and in both ends; labels are rows of IOB2 tags."""
    return _entities("precision_score", true, predicted)


def entity_recall(true: Labels, predicted: Labels) -> float:
    """Return the share of true entities that are found right in type and both ends; labels are rows of IOB2 tags."""
    return _entities("recall_score", true, predicted)


def token_accuracy(true: Labels, predicted: Labels) -> float:
    """Return the share of words that are tagged right; labels are rows of tags."""
    return _accuracy(list(chain.from_iterable(true)), list(chain.from_iterable(predicted)))


def _inverse_perplexity(true: Labels, predicted: Labels) -> float:
    # What is predicted are the losses of the answers' tokens; a loss that is no number is of a diverged model.
    inverse = math.exp(-math.fsum(predicted) / max(1, len(predicted)))
    return 0.0 if math.isnan(inverse) else inverse


BINS = 15


def calibration_error(right: Sequence[bool], confidence: Sequence[float]) -> float:
    """Return the expected calibration error: by how much confidence and accuracy differ, over 15 equal bins.

    Guo et al. 2017 (arXiv 1706.04599), section 2, equation 3.
    """
    sums = [[0, 0.0] for _ in range(BINS)]
    for is_right, sure in zip(right, confidence, strict=True):
        # Bins are open below and closed above, as in the paper.
        own = sums[min(BINS - 1, max(0, math.ceil(sure * BINS) - 1))]
        own[0] += is_right
        own[1] += sure
    return sum(abs(rights - sure) for rights, sure in sums) / max(1, len(right))


METRICS: dict[str, Metric] = {
    # Scores that a task may name as its own.
    "accuracy": Metric("share of rows labelled right", "fraction", "higher", _accuracy),
    "balanced_accuracy": Metric("mean over classes of recall", "fraction", "higher", _balanced_accuracy),
    "macro_f1": Metric("mean over classes of F1", "fraction", "higher", macro_f1),
    "r2": Metric("share of the variance that is explained (coefficient of determination)", "fraction", "higher", _r2),
    "entity_f1": Metric(
        "F1 of whole entities, right in type and in both ends (seqeval, as conlleval)", "fraction", "higher", _entity_f1
    ),
    "token_accuracy": Metric("share of words tagged right", "fraction", "higher", token_accuracy),
    "inverse_perplexity": Metric(
        "1 / perplexity: exp of minus the mean loss over the tokens of the answers",
        "fraction",
        "higher",
        _inverse_perplexity,
    ),
    # What a trial measures; a "score" is the task's own metric, named in the column `metric`.
    "valid_score": Metric("score on the validation rows; everything is chosen on it", "fraction", "higher"),
    "test_score": Metric("score on the test rows; only ever reported", "fraction", "higher"),
    "test_macro_f1": Metric("macro F1 on the test rows", "fraction", "higher"),
    "test_calibration_error": Metric(
        "expected calibration error on the test rows: how far confidence and accuracy differ, in 15 equal bins",
        "fraction",
        "lower",
    ),
    "test_precision": Metric("share of predicted entities that are right, on the test rows", "fraction", "higher"),
    "test_recall": Metric("share of entities that are found, on the test rows", "fraction", "higher"),
    "test_token_accuracy": Metric("share of words tagged right, on the test rows", "fraction", "higher"),
    "test_words_cut": Metric(
        "words of the test rows that are not scored: too far back in a sentence for the model, or without a token",
        "words",
        "lower",
    ),
    "test_rmse": Metric("root of the mean squared error on the test rows", "the target's", "lower"),
    "untouched_test_rmse": Metric("the same before training", "the target's", "lower"),
    "off_test_rmse": Metric("the same after training, added modules switched off", "the target's", "lower"),
    "test_perplexity": Metric(
        "exp of the mean loss over the tokens of the test rows' answers, in the model's own tokens", "tokens", "lower"
    ),
    "untouched_test_perplexity": Metric("the same before training", "tokens", "lower"),
    "off_test_perplexity": Metric("the same after training, added modules switched off", "tokens", "lower"),
    "test_rouge_l": Metric(
        "mean ROUGE-L F-measure (rouge-score, no stemming, words of any script) of what is written, always the "
        "likeliest next token, for up to 64 test rows, the same for every trial",
        "fraction",
        "higher",
    ),
    "untouched_test_rouge_l": Metric("the same before training", "fraction", "higher"),
    "test_bleu": Metric("corpus BLEU (sacrebleu, its defaults) of the same texts", "fraction", "higher"),
    "untouched_test_bleu": Metric("the same before training", "fraction", "higher"),
    "test_exact_match": Metric("share of the same texts that are the answer to the letter", "fraction", "higher"),
    "untouched_test_exact_match": Metric("the same before training", "fraction", "higher"),
    "samples": Metric("a few of the same texts, for reading: prompt, answer, and what was written", "texts", None),
    "shifted_test_score": Metric("score on test rows that are shifted from those trained on", "fraction", "higher"),
    "untouched_shifted_test_score": Metric("the same before training", "fraction", "higher"),
    "off_shifted_test_score": Metric("the same after training, added modules switched off", "fraction", "higher"),
    "untouched_test_score": Metric("test score of the source model before it trains", "fraction", "higher"),
    "off_test_score": Metric(
        "test score after training with the added modules switched off; equals untouched_test_score",
        "fraction",
        "higher",
    ),
    "off_source_test_score": Metric(
        "source_test_score after training with the added modules switched off", "fraction", "higher"
    ),
    "source_test_score": Metric("score on the source domain's test rows after training", "fraction", "higher"),
    "untouched_source_test_score": Metric("the same before training", "fraction", "higher"),
    "forgetting": Metric("untouched_source_test_score - source_test_score", "fraction", "lower"),
    "wrong_by_class": Metric("wrong test rows of each class after training", "rows", "lower"),
    "untouched_wrong_by_class": Metric("the same before training", "rows", "lower"),
    "off_wrong_by_class": Metric("the same after training, added modules switched off", "rows", "lower"),
    "confusion": Metric(
        "test rows of each true class (outer list) that were given each class (inner list), up to 50 classes",
        "rows",
        None,
    ),
    "diagnoses": Metric("what went wrong, by the names of `sweeper.diagnose.DIAGNOSES`; empty for nothing", "", None),
    "train_loss": Metric("mean training loss since the last point of the curve", "nats", "lower"),
    "train_seconds": Metric(
        "wall time of the optimizer steps, without evaluation, the first step of each stage counted as an average one; "
        "of a pack, the member's share (pack time / pack_size)",
        "seconds",
        "lower",
    ),
    "kept_blocks": Metric(
        "frozen blocks at the front that the steps did not compute, their outputs being kept", "blocks", None
    ),
    "train_flops": Metric(
        "FLOPs of the forward and backward passes of all steps: matrix products, convolutions and attention, counted "
        "on the first step of each stage and taken for the others by their rows; of a pack, the member's share",
        "FLOPs",
        "lower",
    ),
    "inference_flops": Metric(
        "FLOPs of one test row's forward pass after training, what can be merged counted as merged; "
        "`base_inference_flops` is the same of the model as loaded",
        "FLOPs",
        "lower",
    ),
    "peak_memory_bytes": Metric(
        "peak while the pack trained: device memory on a GPU, else resident set of the process (column `memory_kind`)",
        "bytes",
        "lower",
    ),
    "pack_size": Metric("trials that trained together in one pass", "trials", None),
    "trainable_params": Metric("parameters that train in any stage", "parameters", "lower"),
    "total_params": Metric("all parameters, those the strategy added included", "parameters", "lower"),
    "saved_bytes": Metric("bytes of the trained parameters: what must be kept for the task", "bytes", "lower"),
}
