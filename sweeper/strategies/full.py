"""Full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sweeper.models.base import LoadedModel
from sweeper.spec import Json
from sweeper.strategies.base import Stage


@dataclass(frozen=True)
class Full:
    """Train every parameter, from the pretrained weights on.

    The rates of the space are those of BERT's fine-tuning and one above (arXiv 1810.04805, appendix A.3).
    """

    name: ClassVar[str] = "full"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"lr": (1e-5, 2e-5, 5e-5, 1e-4)}

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Wake the whole network."""
        if model.head_is_fresh:
            model.wake_fresh_head()
        model.wake("")
        yield Stage()
