"""What a task is: labelled rows in splits that share no example, and how they are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from sweeper.models.base import TEXTS, Encode
from sweeper.spec import TrainArgs
from sweeper.work import CLASSIFICATION


@dataclass(frozen=True)
class Split:
    """Labelled rows: inputs ``x (rows, ...)`` and labels ``y``.

    Labels are class numbers ``(rows,)``; for regression numbers ``(rows,)``, standardised; for tagging the tag
    numbers of each row's words ``(rows, words)``, `IGNORED` where a row has fewer. Where rows are texts, ``x`` is
    ``(rows, 0)`` until `TaskData.encoded` has a model's token ids for it, and ``texts`` holds them: a text a row;
    for tagging a tuple of words; for generation a pair of prompt and answer, and ``y`` is ``(rows, 0)``.
    Once encoded, tagging and generation have a label for each token.
    """

    x: Tensor
    y: Tensor
    texts: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, index: Tensor) -> Split:
        """Return the rows of these numbers."""
        texts = tuple(self.texts[i] for i in index.tolist()) if self.texts else ()
        return Split(self.x[index], self.y[index], texts)


@dataclass(frozen=True)
class Features:
    """How the columns of a table become the numbers that a network reads.

    Attributes:
        columns: Name -> the texts that stand there, each a feature that is 0 or 1; none where it holds numbers.
        mean: Of each feature, over the training rows.
        deviation: Likewise; 0 where they are all equal, and the feature is 0 then.
    """

    columns: Mapping[str, tuple[str, ...]]
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def standardised(self, inputs: np.ndarray) -> np.ndarray:
        """Return features ``(rows, features)`` with mean 0 and deviation 1 over the training rows."""
        mean, deviation = np.array(self.mean), np.array(self.deviation)
        constant = deviation == 0
        return np.where(constant, 0, (inputs - mean) / np.where(constant, 1, deviation)).astype(np.float32)


def features_over(columns: Mapping[str, tuple[str, ...]], known: np.ndarray) -> Features:
    """Return the features of columns, standardised by training rows ``(rows, features)``."""
    known = known.astype(np.float64)
    mean, deviation = known.mean(0), known.std(0)
    deviation[deviation <= 1e-9 * np.maximum(1, np.abs(mean))] = 0
    return Features(columns, tuple(mean.tolist()), tuple(deviation.tolist()))


@dataclass(frozen=True)
class TaskData:
    """The rows of one task for one seed.

    Attributes:
        splits: "train", "valid" and "test"; with a source domain also "source_train", to pretrain on,
            and "source_test", to measure forgetting on; where a shift is defined, "shifted_test". No example is
            in two of them.
        n_classes: Number of classes or tags, every split's labels lie below it; 1 for regression, 0 for generation.
        pretrain: How to train the source model on "source_train", where there is one.
        context: Facts that advice may depend on; they go into every row.
        focus: Where the task depends on what the source model gets wrong: from the number of wrong
            validation rows of each class to the task's final rows.
        work: A name in `sweeper.work.WORK`.
        labels: Names of the classes or tags, by their number.
        unit: For regression, how much 1 in a label is in the target's own unit.
        zero: Likewise, what 0 is.
        features: For tabular rows, how they came from columns, where that is known.
    """

    splits: Mapping[str, Split]
    n_classes: int
    pretrain: TrainArgs | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    focus: Callable[[Sequence[int]], TaskData] | None = None
    work: str = CLASSIFICATION
    labels: tuple[str, ...] = ()
    unit: float = 1.0
    zero: float = 0.0
    features: Features | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one row's input; ``()`` for texts."""
        train = self.splits["train"]
        return TEXTS if train.texts else tuple(train.x.shape[1:])

    def encoded(self, encode: Encode | None) -> TaskData:
        """Return the same rows with texts as token ids, where they are texts."""
        if encode is None or self.input_shape != TEXTS:
            return self
        splits = {name: Split(*encode(split.texts, split.y), split.texts) for name, split in self.splits.items()}
        return replace(self, splits=splits)


def stratified(
    y: np.ndarray, sizes: Sequence[int], rng: np.random.Generator, among: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return disjoint sets of row numbers of these sizes, each with about the class shares of the whole.

    Args:
        y: The class of each row.
        sizes: How many rows each set has.
        rng: Decides which.
        among: Numbers of the rows that the sets are drawn from, if not all.
    """
    if among is not None:
        return [among[rows] for rows in stratified(y[among], sizes, rng)]
    order = rng.permutation(len(y))
    # Sorted by their rank within the class, rows come round robin over the classes ...
    rank = np.empty(len(y))
    for label in np.unique(y):
        mine = order[y[order] == label]
        rank[mine] = (np.arange(len(mine)) + rng.random()) / len(mine)
    by_rank = np.argsort(rank, kind="stable")
    # ... so that every stretch of that order is stratified.
    return np.split(by_rank[: sum(sizes)], np.cumsum(sizes)[:-1])


QUANTILES = 10


def strata(numbers: np.ndarray) -> np.ndarray:
    """Return for each number which tenth of all it belongs to: what `stratified` takes for classes."""
    edges = np.quantile(numbers, np.linspace(0, 1, QUANTILES + 1)[1:-1])
    return np.searchsorted(edges, numbers)


class Task(Protocol):
    """One source of labelled rows.

    Attributes:
        summary: What it asks of a model, in one line.
        metric: Name of its score in `sweeper.metrics.METRICS`.
        n_train: Labelled training rows unless a grid says otherwise.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def summary(self) -> str: ...  # noqa: D102

    @property
    def metric(self) -> str: ...  # noqa: D102

    @property
    def n_train(self) -> int: ...  # noqa: D102

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return the rows for one seed; equal arguments give equal rows.

        Raises:
            ValueError: ``n_train`` is more than there is, or the rows are not to be had; says how to
                get them.
        """
        ...
