"""Every number of a row: what it means, its unit, and which direction is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Labels = Sequence[int]


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
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(true, predicted))


def _balanced_accuracy(true: Labels, predicted: Labels) -> float:
    from sklearn.metrics import balanced_accuracy_score

    return float(balanced_accuracy_score(true, predicted))


def _macro_f1(true: Labels, predicted: Labels) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(true, predicted, average="macro", zero_division=0.0))


METRICS: dict[str, Metric] = {
    # Scores that a task may name as its own.
    "accuracy": Metric("share of rows labelled right", "fraction", "higher", _accuracy),
    "balanced_accuracy": Metric("mean over classes of recall", "fraction", "higher", _balanced_accuracy),
    "macro_f1": Metric("mean over classes of F1", "fraction", "higher", _macro_f1),
    # What a trial measures; a "score" is the task's own metric, named in the column `metric`.
    "valid_score": Metric("score on the validation rows; everything is chosen on it", "fraction", "higher"),
    "test_score": Metric("score on the test rows; only ever reported", "fraction", "higher"),
    "test_macro_f1": Metric("macro F1 on the test rows", "fraction", "higher"),
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
    "train_loss": Metric("mean training loss since the last point of the curve", "nats", "lower"),
    "train_seconds": Metric(
        "wall time of the optimizer steps, without evaluation, the first step of each stage counted as an average one; "
        "of a pack, the member's share (pack time / pack_size)",
        "seconds",
        "lower",
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
