"""A strategy that trains nothing: what is left is what a sweep costs by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from sweeper.models.base import LoadedModel
from sweeper.spec import Json
from sweeper.strategies.base import Draw, Stage


def nothing(model: LoadedModel, draw: Draw) -> Tensor:
    """Return a loss of zero for each member, that depends on no weight."""
    draw("train")
    return torch.zeros(model.members, requires_grad=True)


@dataclass(frozen=True)
class NoOp:
    """Train nothing."""

    name: ClassVar[str] = "no_op"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"lr": (1e-3,)}

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Give each member a head, and leave it as it is."""
        model.wake_fresh_head()
        yield Stage(objective=nothing)
