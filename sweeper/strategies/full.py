"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sweeper.models.base import LoadedModel
from sweeper.strategies.base import Stage


@dataclass(frozen=True)
class Full:
    """Train every parameter, from the pretrained weights on."""

    name: ClassVar[str] = "full"
    per_member: ClassVar[frozenset[str]] = frozenset()

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Wake the whole network."""
        if model.head_is_fresh:
            model.wake_fresh_head()
        model.wake("")
        yield Stage()
