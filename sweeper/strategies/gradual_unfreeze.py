"""Gradual unfreezing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sweeper.models.base import LoadedModel
from sweeper.spec import Json
from sweeper.strategies.base import Stage, check_blocks, check_whole


@dataclass(frozen=True)
class GradualUnfreeze:
    """Train the head first, then wake one block after another, the last block first.

    Formula: ``stage s = 0 .. blocks trains the head and the last s blocks for steps / (blocks + 1)``.

    Each stage has the same share of the steps (ULMFiT, arXiv 1801.06146, section 3.3, there an epoch each).

    Attributes:
        blocks: How many blocks wake, counted from the head.
    """

    name: ClassVar[str] = "gradual_unfreeze"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"blocks": (1, 2, 3), "lr": (1e-4, 3e-4, 1e-3)}

    blocks: int = 2

    def __post_init__(self) -> None:
        check_whole("gradual_unfreeze.blocks", self.blocks)

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Wake the head, then block after block."""
        check_blocks("gradual_unfreeze.blocks", self.blocks, model)
        share = 1 / (self.blocks + 1)
        if model.head_is_fresh:
            model.wake_fresh_head()
        else:
            model.wake(model.head)
        yield Stage(share)
        for path in reversed(model.blocks[-self.blocks :]):
            model.wake(path)
            yield Stage(share)
