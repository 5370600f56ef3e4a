"""A task of ten rows, for the strategy that trains nothing. In a file of its own: tables load it one at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sweeper.tasks.base import Split, TaskData

ROWS, FEATURES, CLASSES = 10, 4, 2


@dataclass(frozen=True)
class NoOpTask:
    """Ten rows of random numbers in each split."""

    name: str = "no_op"
    summary: str = "random numbers, for benchmarks"
    metric: str = "accuracy"
    n_train: int = ROWS

    def load(self, seed: int, n_train: int) -> TaskData:
        """Return rows that depend on the seed alone."""
        rng = torch.Generator().manual_seed(seed)
        y = torch.arange(ROWS) % CLASSES
        splits = {name: Split(torch.randn(ROWS, FEATURES, generator=rng), y) for name in ("train", "valid", "test")}
        context = {"modality": "table", "n_classes": CLASSES, "metric": self.metric}
        return TaskData(splits, CLASSES, context=context)


TASK = NoOpTask()
