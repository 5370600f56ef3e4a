"""Feature extraction, also called linear probe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sweeper.models.base import LoadedModel
from sweeper.spec import Json
from sweeper.strategies.base import Stage


@dataclass(frozen=True)
class FeatureExtraction:
    """Train a fresh head on the frozen backbone.

    Formula: ``logits = W h(x) + b, where h is frozen and W, b train``.
    """

    name: ClassVar[str] = "feature_extraction"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"lr": (1e-2, 3e-2, 1e-1)}

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Wake a fresh head."""
        model.wake_fresh_head()
        yield Stage()
