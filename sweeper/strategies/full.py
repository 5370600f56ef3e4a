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

    Formula: ``minimise loss(f(x; theta), y) over all of theta``.

    Papers fine-tune BERT at 2e-5 to 5e-5 for thousands of steps (arXiv 1810.04805, appendix A.3).
    """

    name: ClassVar[str] = "full"
    per_member: ClassVar[frozenset[str]] = frozenset()
    space: ClassVar[Mapping[str, Sequence[Json]]] = {"lr": (1e-4, 3e-4, 1e-3)}

    def adapt(self, model: LoadedModel, members: Sequence[Self]) -> Iterator[Stage]:
        """Wake the whole network."""
        if model.head_is_fresh:
            model.wake_fresh_head()
        model.wake("")
        yield Stage()
