"""Partial unfreezing with differential learning rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sweeper.models.base import LoadedModel
from sweeper.spec import Json
from sweeper.strategies.base import Stage, check_above_zero, check_blocks, check_whole


@dataclass(frozen=True)
class PartialUnfreeze:
    """Train the head and the last blocks, the pretrained blocks at a lower rate.

    Formula: ``head at lr, the last blocks at backbone_rate * lr, all before them frozen``.

    Differential rates are ULMFiT's discriminative fine-tuning (arXiv 1801.06146, section 3.2).

    Attributes:
        blocks: How many blocks train, counted from the head.
        backbone_rate: Factor on the learning rate for those blocks; the head trains at the full rate.
    """

    name: ClassVar[str] = "partial_unfreeze"
    per_member: ClassVar[frozenset[str]] = frozenset({"backbone_rate"})
    space: ClassVar[Mapping[str, Sequence[Json]]] = {
        "blocks": (1, 2, 3),
        "backbone_rate": (0.1, 0.2, 1.0),
        "lr": (3e-4, 1e-3, 3e-3),
    }

    blocks: int = 1
    backbone_rate: float = 0.2

    def __post_init__(self) -> None:
        check_whole("partial_unfreeze.blocks", self.blocks)
        rate = check_above_zero("partial_unfreeze.backbone_rate", self.backbone_rate)
        object.__setattr__(self, "backbone_rate", rate)

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Wake the head and the last blocks."""
        check_blocks("partial_unfreeze.blocks", self.blocks, model)
        if model.head_is_fresh:
            model.wake_fresh_head()
        model.wake(model.head)
        factors = [member.backbone_rate for member in members]
        rates = {}
        for path in model.blocks[-self.blocks :]:
            model.wake(path)
            rates[path] = factors
        yield Stage(rates=rates)
