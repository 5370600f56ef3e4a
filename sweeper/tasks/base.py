"""What a task is: labelled rows in splits that share no example, and how they are scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from sweeper.spec import TrainArgs


@dataclass(frozen=True)
class Split:
    """Labelled rows: inputs ``x (rows, ...)`` and class numbers ``y (rows,)``."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, index: Tensor) -> Split:
        """Return the rows of these numbers."""
        return Split(self.x[index], self.y[index])


@dataclass(frozen=True)
class TaskData:
    """The rows of one task for one seed.

    Attributes:
        splits: "train", "valid" and "test"; with a source domain also "source_train", to pretrain on,
            and "source_test", to measure forgetting on. No example is in two of them.
        n_classes: Number of classes; every split's labels lie below it.
        pretrain: How to train the source model on "source_train", where there is one.
        context: Facts that advice may depend on; they go into every row.
        focus: Where the task depends on what the source model gets wrong: from the number of wrong
            validation rows of each class to the task's final rows.
    """

    splits: Mapping[str, Split]
    n_classes: int
    pretrain: TrainArgs | None = None
    context: Mapping[str, Any] = field(default_factory=dict)
    focus: Callable[[Sequence[int]], TaskData] | None = None


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
